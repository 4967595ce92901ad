-- lanes: all lanes as a person wants to see them.
-- no parameters   locks: none   returns: one row a lane, in channel order; times in epoch seconds
SELECT
    lane.channel_id,
    lane.has_work,
    lane.holder,
    coalesce(lane.holder IS NOT NULL AND lane.lease_until > now(), false) AS is_held,
    extract(epoch FROM lane.lease_until - now())::float8 AS lease_left_s,
    lane.is_paused OR control.is_paused AS is_paused,
    control.is_paused AS is_all_paused,
    CASE WHEN lane.is_paused THEN lane.pause_reason WHEN control.is_paused THEN 'all lanes' ELSE '' END AS pause_reason,
    lane.breaker,
    extract(epoch FROM lane.breaker_until)::float8 AS breaker_until_s,
    lane.breaker_failures,
    lane.concurrency,
    extract(epoch FROM lane.triggered_at)::float8 AS triggered_at_s,
    extract(epoch FROM lane.pass_started_at)::float8 AS pass_started_at_s,
    extract(epoch FROM lane.pass_ended_at)::float8 AS pass_ended_at_s,
    extract(epoch FROM now() - lane.pass_started_at)::float8 AS unasked_s,
    lane.pass_counts::text AS pass_counts,
    extract(epoch FROM now())::float8 AS now_s
FROM poller.lane
CROSS JOIN poller.control
ORDER BY lane.channel_id
