-- settled_today: what was settled since midnight of the session's time zone.
-- no parameters   locks: none   returns: one row a rule (outcome text, rule text, tasks, refunded, charged bigint)
SELECT
    l.outcome,
    l.rule,
    count(*) AS tasks,
    sum(greatest(0, l.refunded))::bigint AS refunded,
    sum(l.charged)::bigint AS charged
FROM poller.ledger AS l
WHERE l.settled_at >= date_trunc('day', now())
GROUP BY l.outcome, l.rule
ORDER BY l.outcome DESC, count(*) DESC, l.rule
