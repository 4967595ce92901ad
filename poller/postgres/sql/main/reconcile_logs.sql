-- reconcile_logs: the time that these log rows can tell of. Runs where the logs are.
-- no parameters   locks: none
-- returns: one row of epoch seconds, NULL where there is no such row
--   since_s: the oldest row of the type of refunds; what is older may have been deleted
--   until_s: the newest row that we did not write; nothing here knows of what came later
SELECT
    (SELECT min(l.created_at) FROM logs AS l WHERE l.type IN (4, 6))::float8 AS since_s,
    (
        SELECT max(l.created_at) FROM logs AS l
        -- The names that settle gives to ours.
        WHERE l.request_id IS NULL OR l.request_id NOT LIKE 'poller-%'
    )::float8 AS until_s
