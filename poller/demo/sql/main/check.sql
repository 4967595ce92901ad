-- check: the money, told from the tables and from what upstream really did, without a word of the daemon's code.
-- returns: name text, is_ok boolean, detail text
WITH expected AS MATERIALIZED (
    SELECT t0.id, t0.user_id, t0.channel_id, (t0.private_data->>'token_id')::bigint AS token_id,
           (t0.private_data->>'subscription_id')::bigint AS subscription_id, t0.quota AS reserved, tr.outcome,
           CASE WHEN tr.outcome = 'FAILURE' THEN 0
                WHEN p.ratio = 0 OR trunc(priced.amount) <= 0 THEN t0.quota
                ELSE trunc(priced.amount)::bigint END AS charged
    FROM demo.tasks0 t0
    JOIN demo.truth tr ON tr.task_pk = t0.id
    JOIN (VALUES ('demo-image/submit', 1.0), ('demo-video/submit', 2.5), ('demo-music/submit', 0)) AS p (model, ratio)
         ON p.model = t0.properties->>'origin_model_name'
    CROSS JOIN LATERAL (
        SELECT (tr.prompt + tr.completion) * p.ratio * CASE t0."group" WHEN 'vip' THEN 0.9 ELSE 1 END
               * CASE WHEN p.ratio = 2.5 AND t0.private_data->'billing_context' IS NOT NULL THEN 2 ELSE 1 END AS amount) AS priced
), per_user AS (
    SELECT user_id, sum(reserved - charged) AS refund,
           coalesce(sum(reserved - charged) FILTER (WHERE subscription_id IS NULL), 0) AS wallet
    FROM expected GROUP BY user_id
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
FROM tasks t JOIN expected e ON e.id = t.id WHERE t.quota IS DISTINCT FROM e.charged
UNION ALL
SELECT 'balances to the last unit', count(*) FILTER (WHERE NOT is_right) = 0, count(*) FILTER (WHERE is_right) || ' of ' || count(*) || ' users'
FROM (SELECT u.quota = u0.quota + coalesce(p.wallet, 0) AND u.used_quota = u0.used_quota - coalesce(p.refund, 0)
             AND u.request_count = u0.request_count AS is_right
      FROM users u JOIN demo.users0 u0 USING (id) LEFT JOIN per_user p ON p.user_id = u.id) AS each_user
UNION ALL
SELECT 'subscriptions to the last unit', count(*) = 0, count(*) || ' differ'
FROM user_subscriptions x JOIN user_subscriptions0 x0 USING (id)
LEFT JOIN (SELECT subscription_id, sum(reserved - charged) AS refund FROM expected GROUP BY 1) AS s ON s.subscription_id = x.id
WHERE x.amount_used <> x0.amount_used - coalesce(s.refund, 0)
UNION ALL
SELECT 'tokens to the last unit', count(*) = 0, count(*) || ' differ'
FROM tokens k JOIN demo.tokens0 k0 USING (id)
LEFT JOIN (SELECT token_id, sum(reserved - charged) AS refund FROM expected GROUP BY 1) AS s ON s.token_id = k.id
WHERE (k.remain_quota, k.used_quota) IS DISTINCT FROM (k0.remain_quota + coalesce(s.refund, 0), k0.used_quota - coalesce(s.refund, 0))
UNION ALL
SELECT 'channels to the last unit', count(*) = 0, count(*) || ' differ'
FROM channels c JOIN demo.channels0 c0 USING (id)
LEFT JOIN (SELECT channel_id, sum(reserved - charged) AS refund FROM expected GROUP BY 1) AS s ON s.channel_id = c.id
WHERE c.used_quota <> c0.used_quota - coalesce(s.refund, 0)
UNION ALL
SELECT 'logs say the same', coalesce(sum(CASE l.type WHEN 6 THEN l.quota WHEN 2 THEN -l.quota END), 0)
                            = (SELECT coalesce(sum(refund), 0) FROM per_user),
       count(*) || ' log rows' FROM logs l;
