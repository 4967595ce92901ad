-- Exactly once: a task has one ledger row, which nobody ever changes or deletes.
SELECT task_pk AS id, string_agg(op, '') AS now, 'I' AS want
FROM inv.booked GROUP BY task_pk HAVING string_agg(op, '') <> 'I'
