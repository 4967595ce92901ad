-- renew: this replica is alive, keeps its lanes, and every lane knows whether it has work.
-- $1 text replica   $2 float8 seconds a lease lasts   $3 text version   $4 bigint[] channels with active tasks
-- locks: the lanes it changes, in channel order   returns: one row a lane that this replica holds
WITH alive AS (
    INSERT INTO poller.replica AS replica (id, version, seen_until)
    VALUES ($1::text, $3::text, now() + make_interval(secs => $2::float8))
    ON CONFLICT (id) DO UPDATE SET version = excluded.version, seen_until = excluded.seen_until
    -- One that left does not come back: this renewal was sent before and arrives late.
    WHERE NOT replica.has_left
),
forgotten AS (
    -- Replicas have new names after each start; the old ones would pile up.
    DELETE FROM poller.replica
    WHERE id <> $1::text AND seen_until < now() - interval '1 hour'
),
new AS (
    INSERT INTO poller.lane (channel_id)
    SELECT found.channel_id
    FROM unnest($4::bigint[]) AS found (channel_id)
    WHERE NOT EXISTS (SELECT FROM poller.lane WHERE lane.channel_id = found.channel_id)
    ORDER BY found.channel_id
    ON CONFLICT (channel_id) DO NOTHING
),
changing AS (
    -- Ours, and those of anybody whose has_work is out of date; the rest is not written. One order for all replicas.
    SELECT lane.channel_id
    FROM poller.lane
    WHERE lane.holder = $1::text OR lane.has_work <> (lane.channel_id = ANY ($4::bigint[]))
    ORDER BY lane.channel_id
    FOR UPDATE
),
renewed AS (
    -- A lane that was taken over meanwhile has another holder, and so stays with it.
    UPDATE poller.lane
    SET has_work = (lane.channel_id = ANY ($4::bigint[])),
        lease_until = CASE
            WHEN lane.holder = $1::text THEN now() + make_interval(secs => $2::float8)
            ELSE lane.lease_until
        END
    FROM changing
    WHERE lane.channel_id = changing.channel_id
    RETURNING
        lane.holder,
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
    channel_id,
    has_work,
    is_paused,
    triggered_at_s,
    pass_started_at_s,
    breaker,
    breaker_until_s,
    breaker_failures,
    now_s
FROM renewed
WHERE holder = $1::text
ORDER BY channel_id
