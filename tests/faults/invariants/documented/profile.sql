-- profile: what the guide's schema calls things, what a settlement moves there, and what each task must cost.
CREATE FUNCTION inv.outcome(status text) RETURNS text LANGUAGE sql IMMUTABLE AS
$$ SELECT CASE status WHEN 'completed' THEN 'SUCCESS' WHEN 'failed' THEN 'FAILURE' END $$;
CREATE FUNCTION inv.rank(status text) RETURNS integer LANGUAGE sql IMMUTABLE AS
$$ SELECT coalesce(array_position('{submitted,processing,completed}'::text[], status), CASE status WHEN 'failed' THEN 3 ELSE 0 END) $$;

SELECT inv.watch('users', 'quota', 'used_quota');

CREATE VIEW inv.due AS
SELECT l.task_pk, b.xid, 'users' AS tbl, moved.col, l.user_id AS row_id, moved.delta
FROM poller.ledger AS l
JOIN inv.booked AS b ON b.task_pk = l.task_pk AND b.op = 'I'
CROSS JOIN LATERAL (VALUES ('quota', l.refunded), ('used_quota', -l.refunded)) AS moved (col, delta);

-- What the row of a settled task must say.
CREATE VIEW inv.shape AS
SELECT t.id, l.outcome, inv.outcome(t.status) AS says,
       t.progress = '100%' AND t.quota = l.charged AND t.used_quota = l.charged
       AND (l.outcome = 'SUCCESS' OR t.fail_reason <> '') AS is_right
FROM tasks AS t JOIN poller.ledger AS l ON l.task_pk = t.id;

CREATE VIEW inv.lines AS
SELECT x.xid, l.user_id, count(*) AS rows, sum(CASE l.type WHEN 'refund' THEN l.quota WHEN 'consume' THEN -l.quota END) AS amount
FROM logs AS l JOIN inv.logged AS x ON x.log_id = l.id WHERE x.app LIKE 'poller%' GROUP BY 1, 2;
CREATE VIEW inv.told AS
SELECT l.task_pk, l.user_id, l.refunded AS amount FROM poller.ledger AS l WHERE l.refunded <> 0;

CREATE TABLE inv.truth AS
SELECT t0.id AS task_pk, t0.quota AS reserved, tr.outcome,
       CASE WHEN tr.outcome = 'FAILURE' THEN 0
            WHEN a.fixed_quota IS NOT NULL THEN round(a.fixed_quota * g.ratio)::bigint
            WHEN tr.prompt + tr.completion = 0 THEN t0.quota
            ELSE round((tr.prompt + tr.completion) * a.ratio * g.ratio)::bigint END AS charged
FROM demo.tasks0 AS t0
JOIN demo.truth AS tr ON tr.task_pk = t0.id
JOIN demo.users0 AS u ON u.id = t0.user_id
JOIN group_ratio AS g ON g.group_name = u."group"
JOIN abilities AS a ON a.model_name = t0.action;
