-- Right owner: the ledger names the task's own user, channel and id, as they were when it was submitted.
SELECT l.task_pk AS id, format('user %s channel %s %s', l.user_id, l.channel_id, l.task_id) AS now,
       format('user %s channel %s %s', t0.user_id, t0.channel_id, t0.task_id) AS want
FROM poller.ledger AS l LEFT JOIN demo.tasks0 AS t0 ON t0.id = l.task_pk
WHERE (l.user_id, l.channel_id, l.task_id) IS DISTINCT FROM (t0.user_id, t0.channel_id, t0.task_id)
