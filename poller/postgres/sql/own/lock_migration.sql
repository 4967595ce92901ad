-- lock_migration: one migration at a time. Never waits: a session that waits here would stop CREATE INDEX CONCURRENTLY.
-- no parameters   locks: an advisory lock until the end of the transaction   returns: one row (is_locked boolean)
SELECT pg_try_advisory_xact_lock(hashtextextended('poller.migration', 0)) AS is_locked
