-- unassigned: active tasks that name no channel, so that nobody can be asked about them; no lane walks those with NULL.
-- no parameters   locks: none   returns: one row (tasks bigint, at most 2000; pks bigint[], the ten lowest)
WITH found AS (
    (
        SELECT id
        FROM tasks
        WHERE platform = 'custompass' AND status IN ('submitted', 'processing')
            AND channel_id IS NULL
        ORDER BY id
        LIMIT 1000
    )
    UNION ALL
    (
        SELECT id
        FROM tasks
        WHERE platform = 'custompass' AND status IN ('submitted', 'processing')
            AND channel_id = 0
        ORDER BY id
        LIMIT 1000
    )
)
SELECT
    count(*) AS tasks,
    coalesce((array_agg(id ORDER BY id))[1:10], '{}')::bigint[] AS pks
FROM found
