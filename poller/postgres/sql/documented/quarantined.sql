-- quarantined: how many tasks wait for a person; one that was finished by hand since does not count.
-- no parameters   locks: none   returns: one row (quarantined bigint)
SELECT count(*) AS quarantined
FROM poller.watch
WHERE quarantined_at IS NOT NULL
    AND EXISTS (
        SELECT FROM tasks
        WHERE tasks.id = watch.task_pk AND coalesce(watch.task_id = coalesce(tasks.task_id, ''), true)
            AND platform = 'custompass' AND status IN ('submitted', 'processing')
    )
