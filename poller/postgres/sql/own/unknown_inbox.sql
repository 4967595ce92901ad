-- unknown_inbox: status words that no list knew when they were said, the latest 500.
-- no parameters   locks: none   returns: one row a word of a channel, in channel order; times in epoch seconds
SELECT
    latest.channel_id, latest.word, latest.seen_count, latest.first_seen_at_s, latest.last_seen_at_s,
    latest.example_task
FROM (
    SELECT
        u.channel_id, u.word, u.seen_count, u.example_task,
        extract(epoch FROM u.first_seen_at)::float8 AS first_seen_at_s,
        extract(epoch FROM u.last_seen_at)::float8 AS last_seen_at_s
    FROM poller.unknown_status AS u
    ORDER BY u.last_seen_at DESC
    LIMIT 500
) AS latest
ORDER BY latest.channel_id, latest.seen_count DESC, latest.word
