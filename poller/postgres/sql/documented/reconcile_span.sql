-- reconcile_span: how many finished tasks without a ledger row may be owed money, and how many settlements there are.
-- $1 float8 epoch seconds: only tasks submitted, and settlements made, since
-- locks: none   returns: one row (candidates, settlements, oldest_s: epoch seconds of the oldest candidate or NULL)
WITH candidate AS (
    SELECT
        CASE
            WHEN t.created_at BETWEEN to_timestamp(0) AND now() + interval '1 day'
                THEN (extract(epoch FROM t.created_at) * 1000000)::bigint
            ELSE 0
        END AS at_us
    FROM tasks AS t
    WHERE t.platform = 'custompass' AND t.status IN ('completed', 'failed') AND t.quota > coalesce(t.used_quota, 0)
        AND ($1::float8 = 0 OR t.created_at >= to_timestamp($1::float8))
        AND NOT EXISTS (SELECT FROM poller.ledger AS l WHERE l.task_pk = t.id)
)
SELECT
    found.candidates,
    (SELECT count(*) FROM poller.ledger AS l WHERE l.settled_at >= to_timestamp($1::float8)) AS settlements,
    found.oldest_s
FROM (SELECT count(*) AS candidates, min(candidate.at_us)::float8 / 1000000 AS oldest_s FROM candidate) AS found
