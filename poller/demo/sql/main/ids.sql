SELECT id, private_data->>'upstream_task_id' AS upstream_id FROM demo.tasks0 ORDER BY id
