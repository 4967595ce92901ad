-- The gateway's log says what the ledger says, in the same transaction and of the same user.
SELECT coalesce(l.user_id, d.user_id) AS id, format('%s rows %s', coalesce(l.rows, 0), coalesce(l.amount, 0)) AS now,
       format('%s rows %s', coalesce(d.rows, 0), coalesce(d.amount, 0)) AS want
FROM inv.lines AS l FULL JOIN inv.lines_due AS d USING (xid, user_id)
WHERE (coalesce(l.rows, 0), coalesce(l.amount, 0)) <> (coalesce(d.rows, 0), coalesce(d.amount, 0))
