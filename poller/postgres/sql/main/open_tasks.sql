-- open_tasks: what is not settled yet, in the order of the index.
-- $1 bigint channel, or NULL for all   $2 bigint how many
-- locks: none   returns: one row a task; times in epoch seconds; reason is empty unless it is in quarantine
SELECT
    open.pk, open.task_id, open.channel_id, open.user_id, open.action, open.reserved, open.submitted_s,
    extract(epoch FROM w.quarantined_at)::float8 AS quarantined_at_s,
    coalesce(w.reason, '') AS reason,
    coalesce(w.detail, '') AS detail,
    extract(epoch FROM now())::float8 AS now_s
FROM (
    SELECT
        t.id::bigint AS pk,
        coalesce(t.task_id, '')::text AS task_id,
        coalesce(t.channel_id, 0)::bigint AS channel_id,
        coalesce(t.user_id, 0)::bigint AS user_id,
        coalesce(t.action, '')::text AS action,
        coalesce(t.quota, 0)::bigint AS reserved,
        coalesce(nullif(t.submit_time, 0), t.created_at, 0)::float8 AS submitted_s
    FROM tasks AS t
    WHERE t.platform = 'custompass' AND (t.status IS NULL OR t.status NOT IN ('SUCCESS', 'FAILURE'))
        AND ($1::bigint IS NULL OR t.channel_id = $1::bigint)
    ORDER BY t.channel_id, t.id
    LIMIT $2::bigint
) AS open
LEFT JOIN poller.watch AS w ON w.task_pk = open.pk AND coalesce(w.task_id = open.task_id, true)
ORDER BY open.channel_id, open.pk
