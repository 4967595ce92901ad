-- Our sessions change no identity of a task, make none, delete none, and touch no other platform's.
SELECT task_pk AS id, op || ' ' || coalesce(platform, '') AS now, 'nothing' AS want
FROM inv.hist
WHERE app LIKE 'poller%' AND (has_new_identity OR op <> 'U' OR platform IS DISTINCT FROM 'custompass')
