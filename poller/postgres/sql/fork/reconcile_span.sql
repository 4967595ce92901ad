-- reconcile_span: how many finished tasks without a ledger row may be owed money, and how many settlements there are.
-- $1 float8 epoch seconds: only tasks submitted, and settlements made, since
-- locks: none   returns: one row (candidates, settlements, oldest_s: epoch seconds of the oldest candidate or NULL)
WITH candidate AS (
    SELECT submitted.at_s * 1000000 AS at_us
    FROM tasks AS t
    CROSS JOIN LATERAL (
        -- Milliseconds, or a time to come, is no time: taken for the beginning of all.
        SELECT CASE WHEN told.at_s BETWEEN 0 AND extract(epoch FROM now()) + 86400 THEN told.at_s ELSE 0 END AS at_s
        FROM (SELECT coalesce(nullif(t.submit_time, 0), t.created_at, 0)::bigint AS at_s) AS told
    ) AS submitted
    WHERE t.platform = 'custompass' AND t.status = 'FAILURE' AND t.quota > 0
        AND submitted.at_s >= $1::float8
        AND NOT EXISTS (SELECT FROM poller.ledger AS l WHERE l.task_pk = t.id)
)
SELECT
    found.candidates,
    (SELECT count(*) FROM poller.ledger AS l WHERE l.settled_at >= to_timestamp($1::float8)) AS settlements,
    found.oldest_s
FROM (SELECT count(*) AS candidates, min(candidate.at_us)::float8 / 1000000 AS oldest_s FROM candidate) AS found
