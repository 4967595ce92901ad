-- ledger_accept: go on without what the ledger has lost.
-- no parameters   locks: control   returns: one row when something was lost
UPDATE poller.control
SET ledger_pk = NULL, ledger_at = NULL
WHERE ledger_at IS NOT NULL
    AND NOT EXISTS (SELECT FROM poller.ledger WHERE ledger.task_pk = control.ledger_pk)
    AND NOT EXISTS (SELECT FROM poller.ledger WHERE ledger.set_aside_of = control.ledger_pk)
RETURNING true AS was_lost
