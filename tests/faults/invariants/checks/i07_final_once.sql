-- A task becomes final once, and once more each time that the gateway's whole-row save opened it again.
SELECT task_pk AS id, count(*) FILTER (WHERE is_end)::text AS now, (1 + count(*) FILTER (WHERE is_reopening))::text AS want
FROM (
    SELECT task_pk, inv.outcome(new_status) IS NOT NULL AND inv.outcome(old_status) IS NULL AS is_end,
           inv.outcome(new_status) IS NULL AND inv.outcome(old_status) IS NOT NULL AS is_reopening
    FROM inv.hist WHERE op = 'U'
) AS moves
GROUP BY task_pk
HAVING count(*) FILTER (WHERE is_end) > 1 + count(*) FILTER (WHERE is_reopening)
