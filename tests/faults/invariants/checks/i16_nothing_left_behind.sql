-- After all replicas have ended: no session, no prepared transaction, no advisory lock, no lease that still runs.
SELECT pid::bigint AS id, 'session ' || state AS now, '' AS want
FROM pg_stat_activity WHERE application_name LIKE 'poller/%' AND datname = current_database()
UNION ALL
SELECT transaction::text::bigint, 'prepared transaction', '' FROM pg_prepared_xacts WHERE database = current_database()
UNION ALL
SELECT pid, 'advisory lock', '' FROM pg_locks
WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
UNION ALL
SELECT channel_id, 'lease of ' || holder, '' FROM poller.lane
WHERE lease_until > now() AND holder IS NOT NULL
    AND NOT EXISTS (SELECT FROM inv.rule WHERE holder LIKE replace(rule.name, 'felled ', '%-') || '-%')
