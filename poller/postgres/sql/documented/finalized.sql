-- finalized: tasks of ours that became final without us: a second writer is at work.
-- $1 float8 epoch seconds: only what became final since   locks: none
-- returns: at most 100 rows (pk bigint, channel_id bigint, task_id text)
SELECT
    tasks.id::bigint AS pk,
    coalesce(tasks.channel_id, 0)::bigint AS channel_id,
    coalesce(tasks.task_id, '')::text AS task_id
FROM tasks
-- updated_at: every final status was written with it; (platform, status, updated_at) is the guide's own index.
WHERE platform = 'custompass' AND status IN ('completed', 'failed') AND updated_at >= to_timestamp($1::float8)
    AND NOT EXISTS (SELECT FROM poller.ledger WHERE ledger.task_pk = tasks.id)
ORDER BY updated_at
LIMIT 100
