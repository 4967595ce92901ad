-- lock_logs: one replica at a time adds log rows to the other database; the first statement of its transaction there.
-- no parameters   locks: an advisory lock, until the transaction ends   returns: one row
SELECT
    pg_advisory_xact_lock(7237118391560982615) IS NULL AS is_locked,
    -- What follows reads the newest rows by their key, however many the planner thinks they are.
    set_config('enable_seqscan', 'off', true) AS enable_seqscan
