-- index: the one thing added to the gateway's tables; makes a pass an index read however many finished rows there are.
-- The predicate stands word for word in every statement that looks for active tasks: another text would not match it.
-- no parameters   locks: none that writers wait for (CONCURRENTLY; outside of any transaction)   returns: nothing
CREATE INDEX CONCURRENTLY IF NOT EXISTS poller_active_tasks ON tasks (channel_id, id)
WHERE platform = 'custompass' AND (status IS NULL OR status NOT IN ('SUCCESS', 'FAILURE'))
