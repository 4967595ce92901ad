-- held: tasks in quarantine that are still open, those first that wait longest.
-- $1 bigint channel, or NULL for all   $2 bigint how many
-- locks: none   returns: one row a task; times in epoch seconds
SELECT
    w.task_pk AS pk,
    coalesce(t.task_id, '')::text AS task_id,
    w.channel_id,
    coalesce(t.user_id, 0)::bigint AS user_id,
    coalesce(t.action, '')::text AS action,
    coalesce(t.quota, 0)::bigint AS reserved,
    coalesce(nullif(t.submit_time, 0), t.created_at, 0)::float8 AS submitted_s,
    extract(epoch FROM w.quarantined_at)::float8 AS quarantined_at_s,
    w.reason,
    w.detail,
    extract(epoch FROM now())::float8 AS now_s
FROM poller.watch AS w
JOIN tasks AS t ON t.id = w.task_pk AND coalesce(w.task_id = coalesce(t.task_id, ''), true)
WHERE w.quarantined_at IS NOT NULL
    AND ($1::bigint IS NULL OR w.channel_id = $1::bigint)
    AND t.platform = 'custompass' AND (t.status IS NULL OR t.status NOT IN ('SUCCESS', 'FAILURE'))
ORDER BY w.quarantined_at, w.task_pk
LIMIT $2::bigint
