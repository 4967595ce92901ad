-- profile: what the fork calls things, what a settlement moves there, and what each task must cost.
CREATE FUNCTION inv.outcome(status text) RETURNS text LANGUAGE sql IMMUTABLE AS
$$ SELECT CASE WHEN status IN ('SUCCESS', 'FAILURE') THEN status END $$;
CREATE FUNCTION inv.rank(status text) RETURNS integer LANGUAGE sql IMMUTABLE AS
$$ SELECT coalesce(array_position('{NOT_START,SUBMITTED,QUEUED,IN_PROGRESS,SUCCESS}'::text[], status), CASE status WHEN 'FAILURE' THEN 5 ELSE 0 END) $$;

SELECT inv.watch('users', 'quota', 'used_quota', 'request_count');
SELECT inv.watch('tokens', 'remain_quota', 'used_quota');
SELECT inv.watch('channels', 'used_quota');

CREATE VIEW inv.due AS
SELECT l.task_pk, b.xid, 'users' AS tbl, 'quota' AS col, l.user_id AS row_id, l.refunded AS delta
FROM poller.ledger AS l JOIN inv.booked AS b ON b.task_pk = l.task_pk AND b.op = 'I';

CREATE VIEW inv.shape AS
SELECT t.id, l.outcome, inv.outcome(t.status) AS says,
       t.progress = '100%' AND t.quota = CASE l.outcome WHEN 'SUCCESS' THEN l.charged ELSE l.reserved END
       AND t.start_time > 0 AND t.finish_time >= t.start_time AND t.finish_time >= t.submit_time
       AND (l.outcome = 'SUCCESS' OR t.fail_reason <> '') AS is_right
FROM tasks AS t JOIN poller.ledger AS l ON l.task_pk = t.id;

-- Refunds of failed tasks are all that this gateway logs, as text.
CREATE VIEW inv.lines AS
SELECT x.xid, l.user_id, count(*) AS rows, count(*) AS amount
FROM logs AS l JOIN inv.logged AS x ON x.log_id = l.id WHERE x.app LIKE 'poller%' AND l.type = 4 GROUP BY 1, 2;
CREATE VIEW inv.told AS
SELECT l.task_pk, l.user_id, 1 AS amount FROM poller.ledger AS l WHERE l.refunded <> 0 AND l.outcome = 'FAILURE';

CREATE TABLE inv.truth AS
SELECT t0.id AS task_pk, t0.quota AS reserved, tr.outcome,
       CASE WHEN tr.outcome = 'FAILURE' THEN 0
            WHEN t0.action = 'demo-music/submit' OR tr.prompt + tr.completion = 0 THEN t0.quota
            ELSE round((tr.prompt + tr.completion * p.completion) * p.ratio * CASE u."group" WHEN 'vip' THEN 0.9 ELSE 1 END)::bigint
       END AS charged
FROM demo.tasks0 AS t0
JOIN demo.truth AS tr ON tr.task_pk = t0.id
JOIN demo.users0 AS u ON u.id = t0.user_id
JOIN (VALUES ('demo-image/submit', 1.0, 1.0), ('demo-video/submit', 2.5, 1.5), ('demo-music/submit', 0, 0))
     AS p (model, ratio, completion) ON p.model = t0.action;
