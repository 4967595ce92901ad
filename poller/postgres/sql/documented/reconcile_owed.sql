-- reconcile_owed: finished tasks without a ledger row that may be owed money, and settlements whose refunds look alike.
-- $1 float8 epoch seconds: only tasks submitted since
-- $2 float8 $3 float8 epoch seconds: between them the log rows tell of every refund
-- $4 boolean a person is sure that what log rows cannot tell of was not refunded
-- locks: none
-- returns: a cursor in the order of user, key, time (newest first), is_task
--   key: what a refund's log row is recognised by: its user and amount
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
        CASE t.status WHEN 'completed' THEN 'SUCCESS' ELSE 'FAILURE' END AS outcome,
        t.quota::bigint AS reserved,
        coalesce(t.used_quota, 0)::bigint AS charged,
        coalesce(t.fail_reason, '')::text AS fail_reason,
        -- NULL, or a time to come, is no time: taken for the beginning of all. Clocks and time zones of whoever writes
        -- tasks and log rows differ; nobody knows by how much.
        CASE
            WHEN t.created_at BETWEEN to_timestamp(0) AND now() + interval '1 day'
                THEN (extract(epoch FROM t.created_at - interval '1 day') * 1000000)::bigint
            ELSE 0
        END AS at_us,
        (t.quota - coalesce(t.used_quota, 0))::text COLLATE "C" AS key,
        CASE
            WHEN t.status = 'failed' AND coalesce(t.used_quota, 0) <> 0 THEN 'used'
            -- Whoever finished it may be giving the money back right now.
            WHEN t.updated_at > now() - interval '10 minutes' THEN 'young'
            WHEN $4::boolean THEN ''
            WHEN coalesce(t.created_at < to_timestamp($2::float8) OR t.updated_at > to_timestamp($3::float8), true)
                THEN 'unlogged'
            -- The guide's own repair SQL pays these, and writes nothing down.
            WHEN t.status = 'completed' THEN 'untraced'
            ELSE ''
        END AS doubt
    FROM tasks AS t
    WHERE t.platform = 'custompass' AND t.status IN ('completed', 'failed') AND t.quota > coalesce(t.used_quota, 0)
        AND ($1::float8 = 0 OR t.created_at >= to_timestamp($1::float8))
        AND NOT EXISTS (SELECT FROM poller.ledger AS l WHERE l.task_pk = t.id)
),
settled AS (
    -- A refund of ours left a log row at this very time, which explains no other task.
    SELECT
        l.task_pk AS pk, l.task_id, l.user_id, l.channel_id, l.model, l.outcome, l.reserved, l.charged, l.fail_reason,
        (extract(epoch FROM l.settled_at) * 1000000)::bigint AS at_us,
        l.refunded::text COLLATE "C" AS key,
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
