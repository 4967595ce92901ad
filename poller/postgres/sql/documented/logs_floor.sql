-- logs_floor: the newest log row; whatever is added from now on has a greater id. Runs where the logs are.
-- no parameters   locks: none   returns: one row (floor)
SELECT coalesce(max(logs.id), 0)::bigint AS floor FROM logs
