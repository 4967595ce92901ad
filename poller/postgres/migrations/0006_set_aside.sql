-- A settlement whose key another task has by now, as a person said: kept under a key below zero, which no task has; see
-- sql/<profile>/set_aside.sql. The index is for a task that comes back from a backup: it was settled all the same.
CREATE SEQUENCE poller.ledger_aside AS bigint INCREMENT BY -1;
ALTER TABLE poller.ledger
    ADD COLUMN set_aside_of bigint,
    ADD CONSTRAINT set_aside_below_zero CHECK (set_aside_of IS NULL OR (set_aside_of > 0 AND task_pk < 0)) NOT VALID;
CREATE INDEX ledger_set_aside ON poller.ledger (set_aside_of, task_id) WHERE set_aside_of IS NOT NULL;
