-- profile: what current new-api calls things, what a settlement moves there, and what each task must cost.
CREATE FUNCTION inv.outcome(status text) RETURNS text LANGUAGE sql IMMUTABLE AS
$$ SELECT CASE WHEN status IN ('SUCCESS', 'FAILURE') THEN status END $$;
CREATE FUNCTION inv.rank(status text) RETURNS integer LANGUAGE sql IMMUTABLE AS
$$ SELECT coalesce(array_position('{NOT_START,SUBMITTED,QUEUED,IN_PROGRESS,SUCCESS}'::text[], status), CASE status WHEN 'FAILURE' THEN 5 ELSE 0 END) $$;

SELECT inv.watch('users', 'quota', 'used_quota', 'request_count');
SELECT inv.watch('tokens', 'remain_quota', 'used_quota');
SELECT inv.watch('channels', 'used_quota');
SELECT inv.watch('user_subscriptions', 'amount_used');

CREATE VIEW inv.due AS
SELECT l.task_pk, b.xid, moved.tbl, moved.col, moved.row_id, moved.delta
FROM poller.ledger AS l
JOIN inv.booked AS b ON b.task_pk = l.task_pk AND b.op = 'I'
JOIN demo.tasks0 AS t0 ON t0.id = l.task_pk
-- The purse and the token are those that submitting charged, told from the task as it was before the daemon came.
CROSS JOIN LATERAL (
    SELECT (t0.private_data ->> 'token_id')::bigint AS token_id, (t0.private_data ->> 'subscription_id')::bigint AS subscription_id
) AS purse
CROSS JOIN LATERAL (
    VALUES ('users', 'quota', l.user_id, CASE WHEN purse.subscription_id IS NULL THEN l.refunded ELSE 0 END),
           ('users', 'used_quota', l.user_id, -l.refunded),
           ('tokens', 'remain_quota', purse.token_id, l.refunded), ('tokens', 'used_quota', purse.token_id, -l.refunded),
           ('user_subscriptions', 'amount_used', purse.subscription_id, -l.refunded),
           ('channels', 'used_quota', l.channel_id, -l.refunded)
) AS moved (tbl, col, row_id, delta)
WHERE moved.row_id IS NOT NULL AND moved.delta <> 0;

CREATE VIEW inv.shape AS
SELECT t.id, l.outcome, inv.outcome(t.status) AS says,
       t.progress = '100%' AND t.quota = l.charged
       AND t.start_time > 0 AND t.finish_time >= t.start_time AND t.finish_time >= t.submit_time
       AND (l.outcome = 'SUCCESS' OR t.fail_reason <> '') AS is_right
FROM tasks AS t JOIN poller.ledger AS l ON l.task_pk = t.id;

-- One row a task: the sum weighs each amount by its task, so that no two rows can stand in for each other.
CREATE VIEW inv.lines AS
SELECT x.xid, l.user_id, count(*) AS rows,
       sum((CASE l.type WHEN 6 THEN l.quota WHEN 2 THEN -l.quota END)::numeric * (l.other::jsonb ->> 'task_pk')::bigint) AS amount
FROM logs AS l JOIN inv.logged AS x ON x.log_id = l.id WHERE x.app LIKE 'poller%' GROUP BY 1, 2;
CREATE VIEW inv.told AS
SELECT l.task_pk, l.user_id, l.refunded::numeric * l.task_pk AS amount FROM poller.ledger AS l WHERE l.refunded <> 0;

CREATE TABLE inv.truth AS
SELECT t0.id AS task_pk, t0.quota AS reserved, tr.outcome,
       CASE WHEN tr.outcome = 'FAILURE' THEN 0
            WHEN p.ratio = 0 OR trunc(priced.amount) <= 0 THEN t0.quota
            ELSE trunc(priced.amount)::bigint END AS charged
FROM demo.tasks0 AS t0
JOIN demo.truth AS tr ON tr.task_pk = t0.id
JOIN (VALUES ('demo-image/submit', 1.0), ('demo-video/submit', 2.5), ('demo-music/submit', 0)) AS p (model, ratio)
     ON p.model = t0.properties ->> 'origin_model_name'
CROSS JOIN LATERAL (
    SELECT (tr.prompt + tr.completion) * p.ratio * CASE t0."group" WHEN 'vip' THEN 0.9 ELSE 1 END
           * CASE WHEN p.ratio = 2.5 AND t0.private_data -> 'billing_context' IS NOT NULL THEN 2 ELSE 1 END AS amount) AS priced;
