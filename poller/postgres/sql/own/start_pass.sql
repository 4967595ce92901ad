-- start_pass: a pass over the lane begins now; nothing happens when the lane has another holder by now.
-- $1 bigint channel   $2 text replica   locks: the lane
-- returns: one row (now_s float8 epoch seconds), or none: the lane is not ours
UPDATE poller.lane
SET pass_started_at = now()
WHERE channel_id = $1::bigint AND holder = $2::text
RETURNING extract(epoch FROM now())::float8 AS now_s
