-- A cached balance moves for each entry that was surely not sent before: only doubt, age or a Redis that broke excuse it.
SELECT p.row_id AS id, format('%s moved by %s %s times', p.kind, p.delta, coalesce(m.times, 0)) AS now, p.times::text AS want
FROM (
    SELECT kind, row_id, delta, count(*) FILTER (WHERE NOT may_be_missed) AS times FROM inv.moves GROUP BY 1, 2, 3
) AS p
LEFT JOIN (SELECT kind, row_id, delta, count(*) AS times FROM inv.moved GROUP BY 1, 2, 3) AS m USING (kind, row_id, delta)
WHERE p.times > coalesce(m.times, 0) AND NOT EXISTS (SELECT FROM inv.rule WHERE rule.name = 'redis_breaks')
