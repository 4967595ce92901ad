-- The gateway's log says what the ledger says, in the same transaction and of the same user; nothing of ours is there
-- when logs live in a database of their own.
SELECT coalesce(l.user_id, d.user_id) AS id, format('%s rows %s', coalesce(l.rows, 0), coalesce(l.amount, 0)) AS now,
       format('%s rows %s', coalesce(d.rows, 0), coalesce(d.amount, 0)) AS want
FROM inv.lines AS l
FULL JOIN (
    SELECT b.xid, t.user_id, count(*) AS rows, sum(t.amount) AS amount
    FROM inv.told AS t JOIN inv.booked AS b ON b.task_pk = t.task_pk AND b.op = 'I'
    WHERE NOT inv.is_elsewhere()
    GROUP BY 1, 2
) AS d USING (xid, user_id)
WHERE (coalesce(l.rows, 0), coalesce(l.amount, 0)) <> (coalesce(d.rows, 0), coalesce(d.amount, 0))
