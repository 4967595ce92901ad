-- No channel key stands in anything that we wrote.
SELECT l.task_pk AS id, 'ledger' AS now, 'no key' AS want
FROM poller.ledger AS l JOIN demo.channels0 AS c ON position(c.key IN l.evidence || l.fail_reason || l.price_source) > 0
UNION ALL
SELECT t.id, 'task', 'no key' FROM tasks AS t JOIN demo.channels0 AS c ON position(c.key IN coalesce(t.data::text, '') || coalesce(t.fail_reason, '')) > 0
UNION ALL
SELECT l.id, 'log', 'no key' FROM logs AS l JOIN demo.channels0 AS c ON position(c.key IN to_jsonb(l)::text) > 0
UNION ALL
SELECT w.task_pk, 'watch', 'no key' FROM poller.watch AS w JOIN demo.channels0 AS c ON position(c.key IN w.detail) > 0
