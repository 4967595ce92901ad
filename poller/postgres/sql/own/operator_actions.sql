-- operator_actions: what people did to one task, the latest 20.
-- $1 bigint pk   locks: none   returns: (at_s float8 epoch seconds, who text, action text, detail text), oldest first
SELECT latest.at_s, latest.who, latest.action, latest.detail
FROM (
    SELECT a.id, extract(epoch FROM a.at)::float8 AS at_s, a.who, a.action, a.detail
    FROM poller.operator_action AS a
    WHERE a.task_pk = $1::bigint
    ORDER BY a.id DESC
    LIMIT 20
) AS latest
ORDER BY latest.id
