-- take: free and expired lanes with work, up to a fair share of the fleet's lanes.
-- $1 text replica   $2 float8 seconds a lease lasts   $3 boolean take none: this replica is about to leave
-- locks: the replica against leaving; the lanes it takes; a lane that somebody else is taking is passed over
-- returns: one row a lane taken, or a single row with NULL for the lane; each row with the figures of the fleet
WITH present AS (
    -- Locked until the lanes are taken: whoever lets the replica leave meanwhile waits, and then finds them.
    SELECT FROM poller.replica WHERE id = $1::text AND NOT has_left FOR SHARE
),
fleet AS (
    -- Seen further ahead than a lease can reach: the database's clock was set back, and nobody knows who lives.
    SELECT greatest(1, count(*)) AS replicas
    FROM poller.replica
    WHERE seen_until > now() AND seen_until <= now() + 2 * make_interval(secs => $2::float8)
),
work AS (
    SELECT
        count(*) AS lanes,
        count(*) FILTER (WHERE holder = $1::text) AS held
    FROM poller.lane
    WHERE has_work
),
fair AS (
    SELECT replicas, lanes, held, (lanes + replicas - 1) / replicas AS share
    FROM fleet CROSS JOIN work
),
free AS (
    -- Those first that nobody asked for the longest time. The same rule for a clock that was set back.
    SELECT lane.channel_id
    FROM poller.lane
    WHERE lane.has_work
        AND lane.holder IS DISTINCT FROM $1::text
        AND (
            lane.holder IS NULL
            OR lane.lease_until IS NULL
            OR lane.lease_until <= now()
            OR lane.lease_until > now() + 2 * make_interval(secs => $2::float8)
        )
    ORDER BY lane.pass_started_at NULLS FIRST, lane.channel_id
    LIMIT (
        SELECT CASE WHEN $3::boolean OR NOT EXISTS (SELECT FROM present) THEN 0 ELSE greatest(0, share - held) END
        FROM fair
    )
    FOR UPDATE SKIP LOCKED
),
taken AS (
    UPDATE poller.lane
    SET holder = $1::text,
        lease_until = now() + make_interval(secs => $2::float8)
    FROM free
    WHERE lane.channel_id = free.channel_id
    RETURNING
        lane.channel_id,
        lane.has_work,
        lane.is_paused,
        extract(epoch FROM lane.triggered_at)::float8 AS triggered_at_s,
        extract(epoch FROM lane.pass_started_at)::float8 AS pass_started_at_s,
        lane.breaker,
        extract(epoch FROM lane.breaker_until)::float8 AS breaker_until_s,
        lane.breaker_failures,
        extract(epoch FROM now())::float8 AS now_s
)
SELECT
    fair.replicas::integer AS replicas,
    fair.lanes::integer AS lanes_with_work,
    fair.share::integer AS share,
    (SELECT is_paused FROM poller.control) AS is_all_paused,
    taken.*
FROM fair
LEFT JOIN taken ON true
ORDER BY taken.channel_id
