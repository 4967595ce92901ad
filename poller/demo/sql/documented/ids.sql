SELECT id, task_id AS upstream_id FROM demo.tasks0 ORDER BY id
