-- has_channel: whether the gateway has a channel of this id, or had one whose lane is still there.
-- $1 bigint channel   locks: none   returns: one row (is_there boolean)
SELECT
    EXISTS (SELECT FROM channels WHERE id = $1::bigint)
    OR EXISTS (SELECT FROM poller.lane WHERE channel_id = $1::bigint) AS is_there
