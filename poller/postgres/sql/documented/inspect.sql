-- inspect: one task in any state, for a person, and all that settling it by hand needs.
-- $1 bigint pk   locks: none   returns: one row, or none: no such task of ours; times in epoch seconds
SELECT
    extract(epoch FROM now())::float8 AS now_s,
    t.id::bigint AS pk,
    coalesce(t.task_id, '')::text AS task_id,
    coalesce(t.user_id, 0)::bigint AS user_id,
    coalesce(t.channel_id, 0)::bigint AS channel_id,
    coalesce(t.action, '')::text AS action,
    CASE t.status
        WHEN 'submitted' THEN 'SUBMITTED' WHEN 'processing' THEN 'IN_PROGRESS' WHEN 'completed' THEN 'SUCCESS'
        WHEN 'failed' THEN 'FAILURE' ELSE 'UNKNOWN'
    END AS state,
    (t.status IN ('submitted', 'processing')) IS TRUE AS is_active,
    coalesce(t.progress, '')::text AS progress,
    coalesce(t.quota, 0)::bigint AS reserved,
    coalesce(t.used_quota, 0)::bigint AS used,
    coalesce(extract(epoch FROM t.created_at), 0)::float8 AS submitted_s,
    coalesce(extract(epoch FROM t.updated_at), 0)::float8 AS updated_s,
    ''::text AS task_group,
    NULL::text AS properties,
    NULL::text AS private_data,
    left(coalesce(t.fail_reason, ''), 2048)::text AS fail_reason,
    left(coalesce(t.data::text, ''), 4096) AS data
FROM tasks AS t
WHERE t.id = $1::bigint AND t.platform = 'custompass'
