-- A settlement that the ledger is known to hold, so that its loss is noticed; see sql/own/ledger_note.sql.
ALTER TABLE poller.control
    ADD COLUMN ledger_pk bigint,
    ADD COLUMN ledger_at timestamptz;
