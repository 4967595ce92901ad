-- Atomic: by transaction and counter, what our sessions moved is what the ledger rows of that transaction owe.
SELECT coalesce(m.row_id, d.row_id) AS id,
       format('%s.%s %s', coalesce(m.tbl, d.tbl), coalesce(m.col, d.col), coalesce(m.delta, 0)) AS now,
       coalesce(d.delta, 0)::text AS want
FROM (SELECT xid, tbl, col, row_id, sum(delta) AS delta FROM inv.money WHERE app LIKE 'poller%' GROUP BY 1, 2, 3, 4) AS m
FULL JOIN (SELECT xid, tbl, col, row_id, sum(delta) AS delta FROM inv.due GROUP BY 1, 2, 3, 4) AS d
    USING (xid, tbl, col, row_id)
WHERE coalesce(m.delta, 0) <> coalesce(d.delta, 0)
