-- Nothing is noted about a task that is over.
SELECT w.task_pk AS id, 'still noted: ' || w.reason AS now, 'forgotten' AS want
FROM poller.watch AS w LEFT JOIN tasks AS t ON t.id = w.task_pk
WHERE t.id IS NULL OR inv.outcome(t.status) IS NOT NULL
