-- progress: by channel, what there was and what the ledger has of it
SELECT t.channel_id, count(*) AS tasks, count(l.task_pk) AS settled,
       coalesce(sum(l.refunded), 0)::bigint AS refunded, coalesce(sum(l.charged), 0)::bigint AS charged
FROM demo.tasks0 AS t LEFT JOIN poller.ledger AS l ON l.task_pk = t.id
GROUP BY t.channel_id ORDER BY t.channel_id
