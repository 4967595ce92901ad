-- Conservation: every counter is what it was, and what the ledger owes it, and what the gateway did. Nothing else.
SELECT s.row_id AS id, format('%s.%s %s', s.tbl, s.col, c.value) AS now,
       (s.value + coalesce(d.delta, 0) + coalesce(o.delta, 0))::text AS want
FROM inv.start AS s
JOIN inv.counters() AS c USING (tbl, col, row_id)
LEFT JOIN (SELECT tbl, col, row_id, sum(delta) AS delta FROM inv.due GROUP BY 1, 2, 3) AS d USING (tbl, col, row_id)
LEFT JOIN (SELECT what, row_id, sum(delta) AS delta FROM inv.operator GROUP BY 1, 2) AS o
    ON o.what = s.tbl || '.' || s.col AND o.row_id = s.row_id
WHERE c.value <> s.value + coalesce(d.delta, 0) + coalesce(o.delta, 0)
