-- end_pass: the pass over the lane is complete, and this is what it came to.
-- $1 bigint channel   $2 text replica   $3 text counts as a JSON object   locks: the lane   returns: nothing
UPDATE poller.lane
SET pass_ended_at = now(),
    pass_counts = $3::text::jsonb
WHERE channel_id = $1::bigint AND holder = $2::text
