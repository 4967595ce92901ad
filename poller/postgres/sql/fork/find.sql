-- find: the tasks that a person may mean.
-- $1 bigint pk, or NULL   $2 text task id, or NULL
-- locks: none   returns: at most 20 rows
WITH named AS MATERIALIZED (
    SELECT t.id FROM tasks AS t WHERE t.id = $1::bigint AND t.platform = 'custompass'
    UNION
    (SELECT t.id FROM tasks AS t WHERE t.task_id = $2::text AND t.platform = 'custompass' ORDER BY t.id DESC LIMIT 20)
)
SELECT
    t.id::bigint AS pk,
    coalesce(t.task_id, '')::text AS task_id,
    coalesce(t.channel_id, 0)::bigint AS channel_id,
    coalesce(t.user_id, 0)::bigint AS user_id,
    coalesce(t.status, '')::text AS status,
    coalesce(nullif(t.submit_time, 0), t.created_at, 0)::float8 AS submitted_s
FROM tasks AS t
WHERE t.id IN (SELECT named.id FROM named)
ORDER BY t.id DESC
LIMIT 20
