-- refund_room: what went back for failed tasks of one channel within the last hour, and when the next refund may follow.
-- $1 bigint channel   $2 bigint the limit of an hour
-- locks: none   returns: one row (refunded bigint, room_at_s float8 epoch seconds, NULL: at once)
--
-- The same rows as refunded sums up: there is room once those that reach the limit, the latest first, are an hour old.
SELECT
    coalesce(max(given.since), 0)::bigint AS refunded,
    extract(epoch FROM max(given.settled_at) FILTER (WHERE given.since >= $2::bigint) + interval '1 hour')::float8
        AS room_at_s
FROM (
    SELECT l.settled_at, sum(l.refunded) OVER (ORDER BY l.settled_at DESC) AS since
    FROM poller.ledger AS l
    WHERE l.channel_id = $1::bigint
        AND l.settled_at > now() - interval '1 hour'
        AND l.rule IN ('failed_word', 'not_found_confirmed', 'expired')
) AS given
