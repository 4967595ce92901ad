-- seed: 50 users, 4 channels, prices, and demo.tasks tasks that were charged up front, the way the fork charges.
-- settings: demo.tasks (how many), demo.upstream (base URL without channel)
INSERT INTO users (id, username, quota, "group")
SELECT i, 'demo-' || i, 1000000, CASE WHEN i % 3 = 0 THEN 'vip' ELSE 'default' END FROM generate_series(1, 50) AS i;
INSERT INTO tokens (id, user_id, name, key, remain_quota, "group")
SELECT i, i, 'token-' || i, lpad('demo' || i, 48, 'x'), 500000, 'default' FROM generate_series(1, 50) AS i;
INSERT INTO channels (id, type, name, key, base_url, models)
SELECT i, 52, 'demo-' || i, 'demo-key-' || i, current_setting('demo.upstream') || '/ch' || i,
       'demo-image/submit,demo-video/submit,demo-music/submit'
FROM generate_series(1, 4) AS i;
INSERT INTO options (key, value)
VALUES ('ModelRatio', '{"demo-image/submit": 1.0, "demo-video/submit": 2.5}'), ('ModelPrice', '{"demo-music/submit": 0.002}'),
       ('CompletionRatio', '{"demo-image/submit": 1.0, "demo-video/submit": 1.5}'), ('GroupRatio', '{"default": 1, "vip": 0.9}');
-- A third of the rows is from before the gateway saved its ratios with the task.
INSERT INTO tasks (id, task_id, platform, user_id, channel_id, action, status, quota, created_at, updated_at, submit_time,
                   start_time, finish_time, progress, fail_reason, properties)
SELECT i, CASE WHEN i % 100 = 7 THEN 'lost-' ELSE 'demo-' END || i, 'custompass', u, i % 4 + 1, m.model,
       (ARRAY['SUBMITTED', 'IN_PROGRESS', 'UNKNOWN', 'QUEUED'])[i % 4 + 1], 3000 + (i * 137) % 9000, m.at, m.at, m.at, m.at, 0, '0%', '',
       json_build_object('input', CASE WHEN i % 10 = 0
           THEN json_build_object('payload', json_build_object('prompt', 'a cat'), 'token', 'client-' || u, 'headerKey', 'X-Custom-Token')::text
           ELSE '{"prompt": "a cat"}' END,
           'billing_info', CASE WHEN i % 7 < 5 THEN json_build_object(
               'group_ratio', CASE WHEN u % 3 = 0 THEN 0.9 ELSE 1 END, 'user_group_ratio', -1,
               'model_ratio', m.ratio, 'completion_ratio', m.completion, 'model_price', m.price,
               'billing_mode', CASE WHEN m.price > 0 THEN 'fixed' ELSE 'usage' END, 'has_special_ratio', false) END)
FROM generate_series(1, current_setting('demo.tasks')::bigint) AS i
CROSS JOIN LATERAL (SELECT i % 50 + 1 AS u) AS owner
CROSS JOIN LATERAL (
    SELECT (ARRAY['demo-image/submit', 'demo-video/submit', 'demo-music/submit'])[i % 3 + 1] AS model,
           (ARRAY[1.0, 2.5, 0])[i % 3 + 1] AS ratio, (ARRAY[1.0, 1.5, 0])[i % 3 + 1] AS completion,
           (ARRAY[-1, -1, 0.002])[i % 3 + 1] AS price,
           extract(epoch FROM now())::bigint - CASE WHEN i % 100 = 7 THEN 7200 ELSE 0 END AS at) AS m;
UPDATE users u SET quota = u.quota - s.reserved
FROM (SELECT user_id, sum(quota) AS reserved FROM tasks GROUP BY user_id) AS s WHERE s.user_id = u.id;
SELECT setval('tasks_id_seq', (SELECT max(id) FROM tasks)), setval('users_id_seq', 50), setval('channels_id_seq', 4), setval('tokens_id_seq', 50);
