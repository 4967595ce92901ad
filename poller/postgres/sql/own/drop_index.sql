-- drop_index: remove what an interrupted CREATE INDEX CONCURRENTLY left behind: it costs writes and serves no reads.
-- no parameters   locks: none that writers wait for; outside of any transaction   returns: nothing
DROP INDEX CONCURRENTLY IF EXISTS poller_active_tasks
