-- A log database of its own has one line for each ledger row that is logged, named by its task, and no other line of ours.
SELECT coalesce(e.task_pk, t.task_pk) AS id,
       format('%s lines of %s for %s', coalesce(e.rows, 0), e.amount, coalesce(e.user_id, t.user_id)) AS now,
       coalesce('1 of ' || t.amount, 'none') AS want
FROM (SELECT task_pk, user_id, count(*) AS rows, sum(amount) AS amount FROM inv.elsewhere GROUP BY 1, 2) AS e
FULL JOIN (SELECT told.* FROM inv.told WHERE inv.is_elsewhere()) AS t USING (task_pk, user_id)
WHERE (e.rows, e.amount) IS DISTINCT FROM (1::bigint, t.amount::numeric)
