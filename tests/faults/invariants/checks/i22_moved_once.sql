-- A cached balance moves at most once for each entry of the outbox, and for nothing else.
SELECT m.row_id AS id, format('%s moved by %s %s times', m.kind, m.delta, m.times) AS now, coalesce(p.times, 0)::text AS want
FROM (SELECT kind, row_id, delta, count(*) AS times FROM inv.moved GROUP BY 1, 2, 3) AS m
LEFT JOIN (SELECT kind, row_id, delta, count(*) AS times FROM inv.moves GROUP BY 1, 2, 3) AS p USING (kind, row_id, delta)
WHERE m.times > coalesce(p.times, 0)
