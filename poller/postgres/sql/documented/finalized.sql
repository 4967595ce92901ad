-- finalized: tasks of ours that became final without us: a second writer is at work.
-- $1 float8 epoch seconds: only what became final since   locks: none
-- returns: at most 100 rows (pk bigint, channel_id bigint, task_id text)
WITH newest AS (
    -- Nothing here leads to what ended lately: the planner cannot use the guide's index (platform, status, updated_at)
    -- by its leading column, which the index's own predicate makes a constant. The newest rows are where it happens.
    SELECT id, channel_id, task_id, platform, status, updated_at
    FROM tasks
    ORDER BY id DESC
    LIMIT 20000
)
SELECT newest.id::bigint AS pk, newest.channel_id::bigint AS channel_id, newest.task_id::text AS task_id
FROM newest
WHERE newest.platform = 'custompass' AND newest.status IN ('completed', 'failed')
    AND newest.updated_at >= to_timestamp($1::float8)
    AND NOT EXISTS (SELECT FROM poller.ledger WHERE ledger.task_pk = newest.id)
ORDER BY newest.updated_at, newest.id
LIMIT 100
