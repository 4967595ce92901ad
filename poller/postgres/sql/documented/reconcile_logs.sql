-- reconcile_logs: the time that these log rows can tell of. Runs where the logs are.
-- no parameters   locks: none
-- returns: one row of epoch seconds, NULL where there is no such row
--   since_s: the oldest row of the type of refunds; what is older may have been deleted
--   until_s: the newest row that we did not write; nothing here knows of what came later
SELECT
    extract(epoch FROM min(l.created_at) FILTER (WHERE l.type = 'refund'))::float8 AS since_s,
    -- Our own begin so, here and in settle.
    extract(epoch FROM max(l.created_at) FILTER (WHERE coalesce(l.content, '') NOT LIKE 'task %'))::float8 AS until_s
FROM logs AS l
