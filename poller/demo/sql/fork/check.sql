-- check: the money, told from the tables and from what upstream really did, without a word of the daemon's code.
-- returns: name text, is_ok boolean, detail text
WITH expected AS MATERIALIZED (
    SELECT t0.id, t0.user_id, t0.quota AS reserved, tr.outcome,
           CASE WHEN tr.outcome = 'FAILURE' THEN 0
                WHEN t0.action = 'demo-music/submit' OR tr.prompt + tr.completion = 0 THEN t0.quota
                ELSE round((tr.prompt + tr.completion * p.completion) * p.ratio * CASE u."group" WHEN 'vip' THEN 0.9 ELSE 1 END)::bigint
           END AS charged
    FROM demo.tasks0 t0
    JOIN demo.truth tr ON tr.task_pk = t0.id
    JOIN users u ON u.id = t0.user_id
    JOIN (VALUES ('demo-image/submit', 1.0, 1.0), ('demo-video/submit', 2.5, 1.5), ('demo-music/submit', 0, 0))
         AS p (model, ratio, completion) ON p.model = t0.action
), per_user AS (
    SELECT user_id, sum(reserved - charged) AS refund FROM expected GROUP BY user_id
)
SELECT 'tasks settled' AS name, count(*) FILTER (WHERE t.status IN ('SUCCESS', 'FAILURE')) = count(*) AS is_ok,
       count(*) FILTER (WHERE t.status IN ('SUCCESS', 'FAILURE')) || ' of ' || count(*) AS detail
FROM tasks t
UNION ALL
SELECT 'outcome as upstream had it', count(*) = 0, count(*) || ' differ'
FROM tasks t JOIN expected e ON e.id = t.id WHERE t.status IS DISTINCT FROM e.outcome OR t.progress IS DISTINCT FROM '100%'
UNION ALL
SELECT 'one ledger row a task', count(*) = (SELECT count(*) FROM demo.tasks0), count(*) || ' rows' FROM poller.ledger
UNION ALL
SELECT 'reserved = charged + refunded', coalesce(sum(reserved) = sum(charged) + sum(refunded), true),
       coalesce(sum(reserved), 0) || ' = ' || coalesce(sum(charged), 0) || ' + ' || coalesce(sum(refunded), 0) FROM poller.ledger
UNION ALL
SELECT 'every charge at its price', count(*) = 0, count(*) || ' differ'
FROM expected e LEFT JOIN poller.ledger l ON l.task_pk = e.id
WHERE (l.charged, l.reserved) IS DISTINCT FROM (e.charged, e.reserved)
UNION ALL
SELECT 'task rows carry the charge', count(*) = 0, count(*) || ' differ'
FROM tasks t JOIN expected e ON e.id = t.id
WHERE t.quota IS DISTINCT FROM CASE e.outcome WHEN 'SUCCESS' THEN e.charged ELSE e.reserved END
UNION ALL
SELECT 'balances to the last unit', count(*) FILTER (WHERE NOT is_right) = 0, count(*) FILTER (WHERE is_right) || ' of ' || count(*) || ' users'
FROM (SELECT u.quota = u0.quota + coalesce(p.refund, 0) AND u.used_quota = u0.used_quota AS is_right
      FROM users u JOIN demo.users0 u0 USING (id) LEFT JOIN per_user p ON p.user_id = u.id) AS each_user
UNION ALL
SELECT 'tokens and channels untouched', count(*) = 0, count(*) || ' differ'
FROM (SELECT k.id FROM tokens k JOIN demo.tokens0 k0 USING (id) WHERE k.remain_quota <> k0.remain_quota OR k.used_quota <> k0.used_quota
      UNION ALL SELECT c.id FROM channels c JOIN demo.channels0 c0 USING (id) WHERE c.used_quota <> c0.used_quota) AS moved
UNION ALL
SELECT 'a log row for each refunded failure', count(*) = (SELECT count(*) FROM expected WHERE outcome = 'FAILURE' AND reserved > 0),
       count(*) || ' log rows' FROM logs l WHERE l.type = 4;
