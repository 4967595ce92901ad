-- Nothing lost: a final task has its ledger row, or the gateway ended it itself; never both, never neither.
SELECT t.id, concat_ws(' and ', CASE WHEN l.task_pk IS NOT NULL THEN 'ledger' END, CASE WHEN o.row_id IS NOT NULL THEN 'gateway' END) AS now,
       'one of them' AS want
FROM tasks AS t
LEFT JOIN poller.ledger AS l ON l.task_pk = t.id
LEFT JOIN (SELECT DISTINCT row_id FROM inv.operator WHERE what = 'task.finalized') AS o ON o.row_id = t.id
WHERE t.platform = 'custompass' AND inv.outcome(t.status) IS NOT NULL AND (l.task_pk IS NULL) = (o.row_id IS NULL)
UNION ALL
-- A row that vanished was deleted by the gateway.
SELECT t0.id, 'gone', 'still there'
FROM demo.tasks0 AS t0
WHERE NOT EXISTS (SELECT FROM tasks AS t WHERE t.id = t0.id)
    AND NOT EXISTS (SELECT FROM inv.operator AS o WHERE o.what = 'task.deleted' AND o.row_id = t0.id)
