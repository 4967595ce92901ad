-- resume_lane: ask again on one channel.
-- $1 bigint channel   locks: the lane   returns: nothing
UPDATE poller.lane
SET is_paused = false,
    pause_reason = ''
WHERE channel_id = $1::bigint
