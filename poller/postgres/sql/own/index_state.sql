-- index_state: whether the index over active tasks is there and of use.
-- no parameters   locks: none   returns: one row (is_valid boolean), none when there is no such index
SELECT indisvalid AND indisready AS is_valid
FROM pg_index
WHERE indexrelid = to_regclass('poller_active_tasks')
