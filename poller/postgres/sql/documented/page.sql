-- page: the next active tasks of one channel in pk order, and the database's time.
-- $1 bigint channel   $2 bigint pk after which the page starts   $3 bigint how many
-- locks: none
-- returns: one row a task; where none is left, one row that holds the time alone (pk is NULL)
SELECT
    extract(epoch FROM now())::float8 AS now_s,
    task.pk, task.task_id, task.user_id, task.action, task.state, task.progress, task.reserved, task.submitted_s,
    task.task_group, task.properties, task.private_data, task.is_heavy
FROM (SELECT 1) AS once
LEFT JOIN LATERAL (
    SELECT
        t.id::bigint AS pk,
        coalesce(t.task_id, '')::text AS task_id,
        coalesce(t.user_id, 0)::bigint AS user_id,
        coalesce(t.action, '')::text AS action,
        CASE t.status WHEN 'processing' THEN 'IN_PROGRESS' ELSE 'SUBMITTED' END AS state,
        coalesce(t.progress, '')::text AS progress,
        coalesce(t.quota, 0)::bigint AS reserved,
        coalesce(extract(epoch FROM t.created_at), 0)::float8 AS submitted_s,
        ''::text AS task_group,
        NULL::text AS properties,
        NULL::text AS private_data,
        false AS is_heavy
    FROM tasks AS t
    -- Platform and statuses are literals: as parameters they would hide the partial index from the planner.
    WHERE t.channel_id = $1::bigint
        AND t.id > $2::bigint
        AND t.platform = 'custompass' AND t.status IN ('submitted', 'processing')
    ORDER BY t.id
    LIMIT $3::bigint
) AS task ON true
ORDER BY task.pk
