-- finalized: tasks of ours that became final without us: a second writer is at work.
-- $1 float8 epoch seconds: only what became final since   locks: none
-- returns: at most 100 rows (pk bigint, channel_id bigint, task_id text)
SELECT
    tasks.id::bigint AS pk,
    coalesce(tasks.channel_id, 0)::bigint AS channel_id,
    coalesce(tasks.task_id, '')::text AS task_id
FROM tasks
-- finish_time: every writer of a final status sets it, in whole seconds, and it has an index of the gateway.
WHERE platform = 'custompass' AND status IN ('SUCCESS', 'FAILURE') AND finish_time >= floor($1::float8)::bigint
    AND NOT EXISTS (SELECT FROM poller.ledger WHERE ledger.task_pk = tasks.id)
ORDER BY finish_time, tasks.id
LIMIT 100
