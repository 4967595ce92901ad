-- reconcile_oldest_log: since when there are log rows; what is older may have been deleted. Runs where the logs are.
-- no parameters   locks: none   returns: one row (oldest_s: epoch seconds, or NULL)
SELECT min(logs.created_at)::float8 AS oldest_s FROM logs
