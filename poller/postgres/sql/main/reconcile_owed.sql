-- reconcile_owed: finished tasks without a ledger row that may be owed money, and settlements whose refunds look alike.
-- $1 float8 epoch seconds: only tasks submitted since
-- $2 float8 $3 float8 epoch seconds: between them the log rows tell of every refund
-- $4 boolean a person is sure that what log rows cannot tell of was not refunded
-- locks: none
-- returns: a cursor in the order of user, key, time (newest first), is_task
--   key: what a refund's log row is recognised by: its user and the task id in its text
--   at_us: microseconds since the epoch, since when a refund may be its own; charged: what of it is not owed
--   doubt: that of core.reconcile.Candidate
--
-- The order is the server's to make, on its disk when it is long: neither side keeps more than a page of it.
DECLARE owed NO SCROLL CURSOR FOR
WITH candidate AS MATERIALIZED (
    SELECT
        t.id::bigint AS pk,
        coalesce(t.task_id, '')::text AS task_id,
        coalesce(t.user_id, 0)::bigint AS user_id,
        coalesce(t.channel_id, 0)::bigint AS channel_id,
        coalesce(t.action, '')::text AS model,
        'FAILURE' AS outcome,
        t.quota::bigint AS reserved,
        0::bigint AS charged,
        coalesce(t.fail_reason, '')::text AS fail_reason,
        -- The clocks of a gateway's nodes differ; nobody knows by how much.
        (submitted.at_s - 86400) * 1000000 AS at_us,
        coalesce(t.task_id, '')::text COLLATE "C" AS key,
        CASE
            -- Whoever finished it may be giving the money back right now.
            WHEN greatest(t.updated_at, t.finish_time) > extract(epoch FROM now()) - 600 THEN 'young'
            WHEN $4::boolean THEN ''
            WHEN submitted.at_s < $2::float8 OR greatest(t.updated_at, t.finish_time, submitted.at_s) > $3::float8
                THEN 'unlogged'
            -- Failed while it was submitted, perhaps: whoever then gave the money back had no id to name.
            WHEN coalesce(t.task_id, '') = '' THEN 'unnamed'
            ELSE ''
        END AS doubt
    FROM tasks AS t
    CROSS JOIN LATERAL (
        -- Milliseconds, or a time to come, is no time: taken for the beginning of all.
        SELECT CASE WHEN told.at_s BETWEEN 0 AND extract(epoch FROM now()) + 86400 THEN told.at_s ELSE 0 END AS at_s
        FROM (SELECT coalesce(nullif(t.submit_time, 0), t.created_at, 0)::bigint AS at_s) AS told
    ) AS submitted
    WHERE t.platform = 'custompass' AND t.status = 'FAILURE' AND t.quota > 0
        AND submitted.at_s >= $1::float8
        AND NOT EXISTS (SELECT FROM poller.ledger AS l WHERE l.task_pk = t.id)
),
settled AS (
    -- A refund of ours left a log row at this very time, which explains no other task.
    SELECT
        l.task_pk AS pk, l.task_id, l.user_id, l.channel_id, l.model, l.outcome, l.reserved, l.charged, l.fail_reason,
        floor(extract(epoch FROM l.settled_at))::bigint * 1000000 AS at_us,
        l.task_id COLLATE "C" AS key,
        '' AS doubt
    FROM poller.ledger AS l
    WHERE l.refunded > 0
)
SELECT candidate.*, true AS is_task FROM candidate
UNION ALL
SELECT settled.*, false AS is_task
FROM settled
WHERE (settled.user_id, settled.key) IN (SELECT candidate.user_id, candidate.key FROM candidate)
ORDER BY user_id, key, at_us DESC, is_task, pk
