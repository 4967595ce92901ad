-- inspect: one task in any state, for a person, and all that settling it by hand needs.
-- $1 bigint pk   locks: none   returns: one row, or none: no such task of ours; times in epoch seconds
SELECT
    extract(epoch FROM now())::float8 AS now_s,
    t.id::bigint AS pk,
    coalesce(t.task_id, '')::text AS task_id,
    coalesce(t.user_id, 0)::bigint AS user_id,
    coalesce(t.channel_id, 0)::bigint AS channel_id,
    coalesce(t.action, '')::text AS action,
    CASE
        WHEN t.status IN ('NOT_START', 'SUBMITTED', 'QUEUED', 'IN_PROGRESS', 'SUCCESS', 'FAILURE') THEN t.status
        ELSE 'UNKNOWN'
    END::text AS state,
    (t.status IS NULL OR t.status NOT IN ('SUCCESS', 'FAILURE')) AS is_active,
    coalesce(t.progress, '')::text AS progress,
    coalesce(t.quota, 0)::bigint AS reserved,
    NULL::bigint AS used,
    coalesce(nullif(t.submit_time, 0), t.created_at, 0)::float8 AS submitted_s,
    coalesce(t.updated_at, 0)::float8 AS updated_s,
    coalesce(t."group", '')::text AS task_group,
    t.properties::text AS properties,
    t.private_data::text AS private_data,
    left(coalesce(t.fail_reason, ''), 2048)::text AS fail_reason,
    left(coalesce(t.data::text, ''), 4096) AS data
FROM tasks AS t
WHERE t.id = $1::bigint AND t.platform = 'custompass'
