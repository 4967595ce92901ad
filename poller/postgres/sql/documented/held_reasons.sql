-- held_reasons: what the quarantine holds, by channel and reason.
-- no parameters   locks: none
-- returns: (channel_id bigint, reason text, tasks bigint, reserved bigint, oldest_s float8 seconds in quarantine)
SELECT
    w.channel_id,
    w.reason,
    count(*) AS tasks,
    sum(coalesce(t.quota, 0))::bigint AS reserved,
    extract(epoch FROM now() - min(w.quarantined_at))::float8 AS oldest_s
FROM poller.watch AS w
JOIN tasks AS t ON t.id = w.task_pk AND coalesce(w.task_id = coalesce(t.task_id, ''), true)
WHERE w.quarantined_at IS NOT NULL
    AND t.platform = 'custompass' AND t.status IN ('submitted', 'processing')
GROUP BY w.channel_id, w.reason
ORDER BY w.channel_id, count(*) DESC, w.reason
