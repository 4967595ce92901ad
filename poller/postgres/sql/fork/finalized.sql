-- finalized: tasks of ours that became final without us: a second writer is at work.
-- $1 float8 epoch seconds: only what became final since   locks: none
-- returns: at most 200 rows (pk bigint, channel_id bigint, task_id text), in each half at most 100
--
-- finish_time is in whole seconds and has an index of the gateway. A gateway that gives up many tasks at once, such as
-- those of a channel that is gone, leaves it 0: those are searched for among the newest rows, where no index leads.
WITH newest AS (
    SELECT id, channel_id, task_id, platform, status, finish_time, updated_at
    FROM tasks
    ORDER BY id DESC
    LIMIT 20000
),
dated AS (
    SELECT tasks.id, tasks.channel_id, tasks.task_id, tasks.finish_time AS ended_at
    FROM tasks
    WHERE platform = 'custompass' AND status IN ('SUCCESS', 'FAILURE') AND finish_time >= floor($1::float8)::bigint
        AND NOT EXISTS (SELECT FROM poller.ledger WHERE ledger.task_pk = tasks.id)
    ORDER BY finish_time, tasks.id
    LIMIT 100
),
undated AS (
    SELECT newest.id, newest.channel_id, newest.task_id, newest.updated_at AS ended_at
    FROM newest
    WHERE newest.platform = 'custompass' AND newest.status IN ('SUCCESS', 'FAILURE')
        AND coalesce(newest.finish_time, 0) = 0 AND newest.updated_at >= floor($1::float8)::bigint
        AND NOT EXISTS (SELECT FROM poller.ledger WHERE ledger.task_pk = newest.id)
    ORDER BY newest.updated_at, newest.id
    LIMIT 100
)
SELECT
    ended.id::bigint AS pk,
    coalesce(ended.channel_id, 0)::bigint AS channel_id,
    coalesce(ended.task_id, '')::text AS task_id
FROM (SELECT * FROM dated UNION ALL SELECT * FROM undated) AS ended
ORDER BY ended.ended_at, ended.id
