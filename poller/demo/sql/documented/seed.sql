-- seed: 50 users, 4 channels, prices, and demo.tasks tasks that were charged up front.
-- settings: demo.tasks (how many), demo.upstream (base URL without channel)
INSERT INTO users (id, username, quota, "group")
SELECT i, 'demo-' || i, 1000000, CASE WHEN i % 3 = 0 THEN 'vip' ELSE 'default' END FROM generate_series(1, 50) AS i;
INSERT INTO tokens (id, user_id, name, key, "group")
SELECT i, i, 'token-' || i, 'demo-client-' || i, 'default' FROM generate_series(1, 50) AS i;
INSERT INTO channels (id, type, name, key, base_url, models)
SELECT i, 52, 'demo-' || i, 'demo-key-' || i, current_setting('demo.upstream') || '/ch' || i,
       'demo-image/submit,demo-video/submit,demo-music/submit'
FROM generate_series(1, 4) AS i;
INSERT INTO abilities (model_name, channel_type, ratio, fixed_quota)
VALUES ('demo-image/submit', 52, 1.0, NULL), ('demo-video/submit', 52, 2.5, NULL), ('demo-music/submit', 52, NULL, 800);
INSERT INTO group_ratio (group_name, ratio) VALUES ('default', 1), ('vip', 0.9);
INSERT INTO tasks (id, task_id, user_id, channel_id, action, status, quota, created_at)
SELECT i, CASE WHEN i % 100 = 7 THEN 'lost-' ELSE 'demo-' END || i, i % 50 + 1, i % 4 + 1,
       (ARRAY['demo-image/submit', 'demo-video/submit', 'demo-music/submit'])[i % 3 + 1],
       CASE WHEN i % 5 = 0 THEN 'processing' ELSE 'submitted' END, 3000 + (i * 137) % 9000,
       now() - CASE WHEN i % 100 = 7 THEN interval '2 hours' ELSE interval '0' END
FROM generate_series(1, current_setting('demo.tasks')::bigint) AS i;
UPDATE users u SET quota = u.quota - s.reserved, used_quota = u.used_quota + s.reserved
FROM (SELECT user_id, sum(quota) AS reserved FROM tasks GROUP BY user_id) AS s WHERE s.user_id = u.id;
SELECT setval('tasks_id_seq', (SELECT max(id) FROM tasks)), setval('users_id_seq', 50), setval('channels_id_seq', 4), setval('tokens_id_seq', 50);
