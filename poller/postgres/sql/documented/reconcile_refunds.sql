-- reconcile_refunds: log rows of refunds, in the order of reconcile_owed. Runs where the logs are.
-- $1 float8 epoch seconds: only rows since   locks: none
-- returns: a cursor (user_id, key, at_us); key is that of reconcile_owed
DECLARE refunds NO SCROLL CURSOR FOR
SELECT
    coalesce(l.user_id, 0)::bigint AS user_id,
    l.quota::text COLLATE "C" AS key,
    (extract(epoch FROM l.created_at) * 1000000)::bigint AS at_us
FROM logs AS l
WHERE l.type = 'refund' AND l.quota > 0 AND l.created_at >= to_timestamp($1::float8)
ORDER BY user_id, key, at_us DESC
