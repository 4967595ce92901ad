-- Liveness: after healing nothing stays open but what is in quarantine for a reason that this run gave.
SELECT t.id, coalesce(t.status, 'NULL') || ' ' || coalesce(w.reason, '') AS now, 'final' AS want
FROM tasks AS t
LEFT JOIN poller.watch AS w ON w.task_pk = t.id AND w.quarantined_at IS NOT NULL
WHERE t.platform = 'custompass' AND inv.outcome(t.status) IS NULL
    AND (w.reason = 'user_gone' AND NOT EXISTS (SELECT FROM users AS u WHERE u.id = t.user_id)
         OR w.reason = 'deadline_hold' AND EXISTS (SELECT FROM inv.rule WHERE rule.name = 'hold')
            AND to_jsonb(t)::text LIKE '%lost-%') IS NOT TRUE
