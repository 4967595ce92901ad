-- lock_index: one builder of the index at a time; an INVALID index found under this lock is a left-over.
-- no parameters   locks: an advisory lock until the session ends   returns: one row (is_locked boolean)
SELECT pg_try_advisory_lock(hashtextextended('poller.index', 0)) AS is_locked
