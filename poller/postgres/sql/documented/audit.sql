-- audit: settlements against what the gateway's tables say of them now; each is looked at once, soon after it was made.
-- $1 timestamptz, $2 bigint: time and pk of the settlement looked at last   $3 float8 seconds: younger ones come later
-- $4 bigint how many at most   $5 bigint[] pks to look at again, whatever their age
-- $6 text replica   $7 boolean logs live in another database
-- locks: none
-- returns: one row a difference (pk, kind, drift in quota), or a single row without one; each with the database's time,
--   whether it is this replica's turn, how many were looked at, and time and pk of the last of them
--   kind unseen: a row of $5 whose line can no longer be looked for
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
    -- Nothing leads to a refund's line but its own key: the newest are where it is.
    SELECT logs.user_id, logs.type, logs.quota, logs.created_at, logs.content
    FROM logs
    ORDER BY logs.id DESC
    LIMIT CASE WHEN $7::boolean OR NOT EXISTS (SELECT FROM looked WHERE looked.refunded <> 0) THEN 0 ELSE 20000 END
),
covered AS MATERIALIZED (
    -- Lines older than these were not read; where there are fewer, all were.
    SELECT CASE WHEN count(*) = 20000 THEN min(lines.created_at) ELSE '-infinity' END AS since FROM lines
),
told AS MATERIALIZED (
    SELECT looked.task_pk
    FROM looked
    JOIN lines ON lines.user_id = looked.user_id AND lines.created_at = looked.settled_at
        AND lines.type = CASE WHEN looked.refunded > 0 THEN 'refund' ELSE 'consume' END
        AND lines.quota = abs(looked.refunded)
    WHERE strpos(lines.content, looked.task_id) > 0
),
differing AS (
    SELECT looked.task_pk AS pk, found.kind, found.drift
    FROM looked
    CROSS JOIN covered
    CROSS JOIN LATERAL (
        -- OFFSET keeps this a look-up by key for each: the planner does not know how few they are.
        SELECT tasks.id, tasks.task_id, tasks.user_id, tasks.status, tasks.quota, tasks.used_quota
        FROM tasks
        WHERE tasks.id = looked.task_pk AND tasks.platform = 'custompass'
        OFFSET 0
    ) AS t
    CROSS JOIN LATERAL (
        SELECT
            CASE
                WHEN coalesce(t.task_id, '') <> looked.task_id OR coalesce(t.user_id, 0) <> looked.user_id
                    THEN 'other_task'
                WHEN t.status IN ('submitted', 'processing') THEN 'open_again'
                WHEN t.status IS DISTINCT FROM CASE looked.outcome WHEN 'SUCCESS' THEN 'completed' ELSE 'failed' END
                    THEN 'other_outcome'
                WHEN coalesce(t.quota, 0) <> looked.charged OR coalesce(t.used_quota, 0) <> looked.charged
                    THEN 'other_amount'
                WHEN looked.refunded = 0 OR $7::boolean THEN NULL
                WHEN looked.settled_at <= covered.since
                    THEN CASE WHEN looked.task_pk IN (SELECT unnest($5::bigint[])) THEN 'unseen' END
                WHEN looked.task_pk NOT IN (SELECT told.task_pk FROM told) THEN 'no_log'
            END AS kind
    ) AS judged
    CROSS JOIN LATERAL (
        SELECT
            judged.kind,
            CASE judged.kind
                WHEN 'other_amount' THEN greatest(
                    abs(coalesce(t.quota, 0)::numeric - looked.charged),
                    abs(coalesce(t.used_quota, 0)::numeric - looked.charged)
                )
                WHEN 'no_log' THEN abs(looked.refunded)
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
