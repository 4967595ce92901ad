-- held_by_ledger: tasks in quarantine because the ledger has their key for another task, a page at a time.
-- $1 bigint the last pk of the page before   $2 bigint how many
-- locks: none   returns: (task_pk bigint), by pk
SELECT w.task_pk
FROM poller.watch AS w
WHERE w.quarantined_at IS NOT NULL AND w.reason = 'ledger_of_another_task' AND w.task_pk > $1::bigint
ORDER BY w.task_pk
LIMIT $2::bigint
