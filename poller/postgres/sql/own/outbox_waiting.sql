-- outbox_waiting: how much is in the outbox, and for how long.
-- no parameters   locks: none
-- returns: one row: depth (at most 100000 are counted), oldest_s in seconds, 0 when it is empty
SELECT
    (SELECT count(*) FROM (SELECT FROM poller.outbox LIMIT 100000) AS o) AS depth,
    coalesce(
        -- The key rises with time, so the first entry is the oldest but for a moment.
        (SELECT greatest(0, extract(epoch FROM now() - o.created_at)) FROM poller.outbox AS o ORDER BY o.id LIMIT 1), 0
    )::float8 AS oldest_s
