-- Lines of ours in a log database of its own, by the task that they name.
SELECT (other::jsonb ->> 'task_pk')::bigint AS task_pk, user_id::bigint,
       (CASE type WHEN 6 THEN quota WHEN 2 THEN -quota END)::numeric * (other::jsonb ->> 'task_pk')::bigint AS amount
FROM logs
