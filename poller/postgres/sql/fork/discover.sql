-- discover: the channels that have active tasks, one index probe for each of them, whatever the number of tasks.
-- no parameters   locks: none   returns: (channel_id bigint), ascending
WITH RECURSIVE found AS (
    -- The first channel of the partial index (channel_id, id) …
    (
        SELECT channel_id
        FROM tasks
        WHERE platform = 'custompass' AND (status IS NULL OR status NOT IN ('SUCCESS', 'FAILURE'))
            AND channel_id IS NOT NULL
        ORDER BY channel_id
        LIMIT 1
    )
    UNION ALL
    -- … then always the next one above it: a loose index scan, which DISTINCT would not be. Ends with a NULL.
    SELECT (
        SELECT tasks.channel_id
        FROM tasks
        WHERE platform = 'custompass' AND (status IS NULL OR status NOT IN ('SUCCESS', 'FAILURE'))
            AND tasks.channel_id > found.channel_id
        ORDER BY tasks.channel_id
        LIMIT 1
    )
    FROM found
    WHERE found.channel_id IS NOT NULL
)
SELECT channel_id::bigint AS channel_id FROM found WHERE channel_id IS NOT NULL
