-- reconcile_ledger: settlements against what the gateway's tables say of them now, a page at a time.
-- $1 bigint the last pk of the page before   $2 float8 epoch seconds: only settlements since   $3 bigint how many
-- $4 boolean logs live in another database   $5 float8 epoch seconds: older lines may have been deleted
-- locks: none
-- returns: one row a difference (pk, kind, drift in quota, and whose), or a single row without one; each with how many
--   were looked at and the last pk of them
WITH looked AS MATERIALIZED (
    SELECT l.*
    FROM poller.ledger AS l
    WHERE l.task_pk > $1::bigint AND l.settled_at >= to_timestamp($2::float8)
    ORDER BY l.task_pk
    LIMIT $3::bigint
),
lined AS MATERIALIZED (
    SELECT looked.task_pk
    FROM looked
    -- The name that settle gave it.
    JOIN logs ON logs.request_id = concat('poller-', replace(looked.attempt::text, '-', ''), '-', looked.task_pk)
    WHERE looked.refunded > 0 AND NOT $4::boolean AND logs.quota = looked.refunded
),
differing AS (
    SELECT
        looked.task_pk AS pk, looked.task_id, looked.user_id, looked.channel_id, found.kind,
        CASE found.kind
            WHEN 'other_amount' THEN abs(coalesce(t.quota, 0)::numeric - looked.charged)
            WHEN 'no_log' THEN abs(looked.refunded)
            -- The whole of it is in doubt.
            ELSE greatest(looked.reserved, looked.charged)
        END::numeric AS drift
    FROM looked
    -- A task that is gone proves nothing: gateways let people delete old ones.
    JOIN tasks AS t ON t.id = looked.task_pk AND t.platform = 'custompass'
    CROSS JOIN LATERAL (
        SELECT
            CASE
                WHEN coalesce(t.task_id, '') <> looked.task_id OR coalesce(t.user_id, 0) <> looked.user_id
                    THEN 'other_task'
                WHEN t.status IS NULL OR t.status NOT IN ('SUCCESS', 'FAILURE') THEN 'open_again'
                WHEN t.status <> looked.outcome
                    THEN 'other_outcome'
                WHEN coalesce(t.quota, 0) <> looked.charged
                    THEN 'other_amount'
                WHEN NOT $4::boolean AND looked.refunded > 0
                    AND looked.settled_at >= to_timestamp($5::float8)
                    AND looked.task_pk NOT IN (SELECT lined.task_pk FROM lined)
                    -- It may still be on its way, from the time when logs were elsewhere.
                    AND NOT EXISTS (SELECT FROM poller.outbox AS o WHERE o.task_pk = looked.task_pk AND o.kind = 'log')
                    THEN 'no_log'
            END AS kind
    ) AS found
    WHERE found.kind IS NOT NULL
),
page AS (
    SELECT count(*) AS looked, max(looked.task_pk) AS last_pk FROM looked
)
SELECT
    page.looked, page.last_pk, differing.pk, differing.task_id, differing.user_id, differing.channel_id, differing.kind,
    differing.drift
FROM page
LEFT JOIN differing ON true
ORDER BY differing.pk
