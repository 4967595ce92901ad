-- pause_lane: stop asking on one channel, also when it has no lane yet.
-- $1 bigint channel   $2 text reason   locks: the lane   returns: nothing
INSERT INTO poller.lane AS lane (channel_id, has_work, is_paused, pause_reason)
VALUES ($1::bigint, false, true, $2::text)
ON CONFLICT (channel_id) DO UPDATE SET is_paused = true, pause_reason = excluded.pause_reason
