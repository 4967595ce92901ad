-- audit: settlements against what the gateway's tables say of them now; each is looked at once, soon after it was made.
-- $1 timestamptz, $2 bigint: time and pk of the settlement looked at last   $3 float8 seconds: younger ones come later
-- $4 bigint how many at most   $5 bigint[] pks to look at again, whatever their age
-- $6 text replica   $7 boolean logs live in another database
-- locks: none
-- returns: one row a difference (pk, kind, drift in quota), or a single row without one; each with the database's time,
--   whether it is this replica's turn, how many were looked at, and time and pk of the last of them
WITH turn AS MATERIALIZED (
    -- One replica is enough: the one that lives longest.
    SELECT
        coalesce(
            (SELECT r.id FROM poller.replica AS r WHERE r.seen_until > now() ORDER BY r.started_at, r.id LIMIT 1),
            $6::text
        ) = $6::text AS is_ours
),
recent AS MATERIALIZED (
    SELECT l.*
    FROM poller.ledger AS l
    WHERE (l.settled_at, l.task_pk) > ($1::timestamptz, $2::bigint)
        -- A transaction dates its rows when it begins: what is so old will not be joined by older ones.
        AND l.settled_at <= now() - make_interval(secs => $3::float8)
        AND (SELECT turn.is_ours FROM turn)
    ORDER BY l.settled_at, l.task_pk
    LIMIT $4::bigint
),
looked AS MATERIALIZED (
    SELECT * FROM recent
    UNION ALL
    SELECT l.*
    FROM poller.ledger AS l
    WHERE l.task_pk = ANY (ARRAY(SELECT unnest($5::bigint[])))
        AND NOT EXISTS (SELECT FROM recent WHERE recent.task_pk = l.task_pk)
),
lines AS MATERIALIZED (
    -- The refunds' lines by the name that settle gave them; one scan, whatever the indexes.
    SELECT DISTINCT logs.request_id
    FROM logs
    WHERE logs.request_id = ANY (ARRAY(
        SELECT concat('poller-', replace(looked.attempt::text, '-', ''), '-', looked.task_pk)
        FROM looked
        WHERE looked.refunded > 0 AND NOT $7::boolean
    ))
),
differing AS (
    SELECT looked.task_pk AS pk, found.kind, found.drift
    FROM looked
    CROSS JOIN LATERAL (
        -- OFFSET keeps this a look-up by key for each: the planner does not know how few they are.
        SELECT tasks.id, tasks.task_id, tasks.user_id, tasks.status, tasks.quota
        FROM tasks
        WHERE tasks.id = looked.task_pk AND tasks.platform = 'custompass'
        OFFSET 0
    ) AS t
    CROSS JOIN LATERAL (
        SELECT
            CASE
                WHEN coalesce(t.task_id, '') <> looked.task_id OR coalesce(t.user_id, 0) <> looked.user_id
                    THEN 'other_task'
                WHEN t.status IS NULL OR t.status NOT IN ('SUCCESS', 'FAILURE') THEN 'open_again'
                WHEN t.status <> looked.outcome THEN 'other_outcome'
                WHEN coalesce(t.quota, 0) <> looked.charged THEN 'other_amount'
                WHEN looked.refunded > 0 AND NOT $7::boolean
                    AND concat('poller-', replace(looked.attempt::text, '-', ''), '-', looked.task_pk)
                        NOT IN (SELECT lines.request_id FROM lines)
                    THEN 'no_log'
            END AS kind
    ) AS judged
    CROSS JOIN LATERAL (
        SELECT
            judged.kind,
            CASE judged.kind
                WHEN 'other_amount' THEN abs(coalesce(t.quota, 0)::numeric - looked.charged)
                WHEN 'no_log' THEN looked.refunded
                -- The whole of it is in doubt.
                ELSE greatest(looked.reserved, looked.charged)
            END AS drift
    ) AS found
    WHERE found.kind IS NOT NULL
),
last AS (
    SELECT recent.settled_at, recent.task_pk FROM recent ORDER BY recent.settled_at DESC, recent.task_pk DESC LIMIT 1
)
SELECT
    extract(epoch FROM now())::float8 AS now_s,
    turn.is_ours,
    (SELECT count(*) FROM recent) AS looked,
    (SELECT last.settled_at FROM last) AS last_at,
    (SELECT last.task_pk FROM last) AS last_pk,
    differing.pk,
    differing.kind,
    differing.drift
FROM turn
LEFT JOIN differing ON true
ORDER BY differing.pk
