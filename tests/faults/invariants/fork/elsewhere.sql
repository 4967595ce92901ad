-- Lines of ours in a log database of its own, by the task that they name.
SELECT (other::jsonb ->> 'task_pk')::bigint AS task_pk, user_id::bigint, CASE type WHEN 4 THEN 1::numeric END AS amount FROM logs
