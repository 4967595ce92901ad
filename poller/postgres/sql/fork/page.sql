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
        CASE WHEN t.status IN ('NOT_START', 'SUBMITTED', 'QUEUED', 'IN_PROGRESS') THEN t.status ELSE 'UNKNOWN' END::text
            AS state,
        coalesce(t.progress, '')::text AS progress,
        coalesce(t.quota, 0)::bigint AS reserved,
        coalesce(nullif(t.submit_time, 0), t.created_at, 0)::float8 AS submitted_s,
        ''::text AS task_group,
        -- As text: an escape that PostgreSQL cannot decode would cost the whole page. A long request body (images)
        -- is left for statement heavy, so that a page fits in memory.
        CASE WHEN pg_column_size(t.properties) <= 8192 THEN t.properties::text END AS properties,
        NULL::text AS private_data,
        coalesce(pg_column_size(t.properties) > 8192, false) AS is_heavy
    FROM tasks AS t
    -- Platform and statuses are literals: as parameters they would hide the partial index from the planner.
    WHERE t.channel_id = $1::bigint
        AND t.id > $2::bigint
        AND t.platform = 'custompass' AND (t.status IS NULL OR t.status NOT IN ('SUCCESS', 'FAILURE'))
    ORDER BY t.id
    LIMIT $3::bigint
) AS task ON true
ORDER BY task.pk
