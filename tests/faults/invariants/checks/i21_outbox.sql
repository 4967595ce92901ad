-- Liveness: what settling left for other systems is handed over.
SELECT o.id, o.kind || ' ' || o.last_error AS now, 'handed over' AS want FROM poller.outbox AS o
