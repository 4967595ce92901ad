-- Lines of ours in a log database of its own, by the task that they name.
SELECT substring(content FROM '\[ledger (\d+)\]$')::bigint AS task_pk, user_id::bigint,
       (CASE type WHEN 'refund' THEN quota WHEN 'consume' THEN -quota END)::numeric AS amount
FROM logs
