-- seed: 50 users, 4 channels, 10 subscriptions, and demo.tasks tasks that were charged up front, as current new-api does.
-- settings: demo.tasks (how many), demo.upstream (base URL without channel)
INSERT INTO users (id, username, quota, "group")
SELECT i, 'demo-' || i, 1000000, CASE WHEN i % 3 = 0 THEN 'vip' ELSE 'default' END FROM generate_series(1, 50) AS i;
INSERT INTO tokens (id, user_id, name, key, remain_quota, "group")
SELECT i, i, 'token-' || i, lpad('demo' || i, 48, 'x'), 500000, 'default' FROM generate_series(1, 50) AS i;
INSERT INTO user_subscriptions (id, user_id, amount_total, amount_used, status)
SELECT i, i * 5, 0, 0, 'active' FROM generate_series(1, 10) AS i;
INSERT INTO channels (id, type, name, key, base_url, models)
SELECT i, 53, 'demo-' || i, 'demo-key-' || i, current_setting('demo.upstream') || '/ch' || i,
       'demo-image/submit,demo-video/submit,demo-music/submit'
FROM generate_series(1, 4) AS i;
INSERT INTO options (key, value)
VALUES ('ModelRatio', '{"demo-image/submit": 1.0, "demo-video/submit": 2.5}'), ('GroupRatio', '{"default": 1, "vip": 0.9}');
-- Every fifth user pays from a subscription; a fifth of the rows has no token; older rows have no saved ratios.
INSERT INTO tasks (id, task_id, platform, user_id, "group", channel_id, action, status, quota, created_at, updated_at, submit_time,
                   start_time, finish_time, progress, fail_reason, properties, private_data)
SELECT i, 'task_public_' || i, 'custompass', u, CASE WHEN u % 3 = 0 THEN 'vip' ELSE 'default' END, i % 4 + 1, 'generate',
       (ARRAY['NOT_START', 'SUBMITTED', 'IN_PROGRESS', 'QUEUED'])[i % 4 + 1], 3000 + (i * 137) % 9000, m.at, m.at, m.at, 0, 0, '10%', '',
       json_build_object('input', '', 'upstream_model_name', m.model, 'origin_model_name', m.model),
       json_strip_nulls(json_build_object(
           'upstream_task_id', CASE WHEN i % 100 = 7 THEN 'lost-' ELSE 'demo-' END || i,
           'billing_source', CASE WHEN u % 5 = 0 THEN 'subscription' ELSE 'wallet' END,
           'subscription_id', CASE WHEN u % 5 = 0 THEN u / 5 END,
           'token_id', CASE WHEN i % 5 < 4 THEN u END,
           'billing_context', CASE WHEN i % 7 < 5 THEN json_build_object(
               'group_ratio', CASE WHEN u % 3 = 0 THEN 0.9 ELSE 1 END, 'model_ratio', m.ratio, 'model_price', m.price,
               'other_ratios', json_build_object('seconds', CASE WHEN m.ratio = 2.5 THEN 2 ELSE 1 END),
               'origin_model_name', m.model, 'per_call_billing', m.price > 0) END))
FROM generate_series(1, current_setting('demo.tasks')::bigint) AS i
CROSS JOIN LATERAL (SELECT i % 50 + 1 AS u) AS owner
CROSS JOIN LATERAL (
    SELECT (ARRAY['demo-image/submit', 'demo-video/submit', 'demo-music/submit'])[i % 3 + 1] AS model,
           (ARRAY[1.0, 2.5, 0])[i % 3 + 1] AS ratio, (ARRAY[0, 0, 0.002])[i % 3 + 1] AS price,
           extract(epoch FROM now())::bigint - CASE WHEN i % 100 = 7 THEN 7200 ELSE 0 END AS at) AS m;
UPDATE users u SET quota = u.quota - s.wallet, used_quota = u.used_quota + s.reserved, request_count = s.tasks
FROM (SELECT user_id, sum(quota) AS reserved, count(*) AS tasks,
             coalesce(sum(quota) FILTER (WHERE private_data->>'billing_source' = 'wallet'), 0) AS wallet
      FROM tasks GROUP BY user_id) AS s WHERE s.user_id = u.id;
UPDATE user_subscriptions x SET amount_used = s.reserved
FROM (SELECT (private_data->>'subscription_id')::bigint AS id, sum(quota) AS reserved FROM tasks GROUP BY 1) AS s WHERE s.id = x.id;
UPDATE tokens k SET remain_quota = k.remain_quota - s.reserved, used_quota = k.used_quota + s.reserved
FROM (SELECT (private_data->>'token_id')::bigint AS id, sum(quota) AS reserved FROM tasks GROUP BY 1) AS s WHERE s.id = k.id;
UPDATE channels c SET used_quota = s.reserved
FROM (SELECT channel_id, sum(quota) AS reserved FROM tasks GROUP BY 1) AS s WHERE s.channel_id = c.id;
SELECT setval('tasks_id_seq', (SELECT max(id) FROM tasks)), setval('users_id_seq', 50), setval('channels_id_seq', 4), setval('tokens_id_seq', 50),
       setval('user_subscriptions_id_seq', 10);
CREATE TABLE user_subscriptions0 AS SELECT * FROM user_subscriptions;
