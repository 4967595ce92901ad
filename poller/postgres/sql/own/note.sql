-- note: what is remembered about one task.
-- $1 bigint pk   $2 text task id   locks: none   returns: one row, or none: nothing
SELECT
    w.sightings,
    coalesce(extract(epoch FROM w.sighted_at), 0)::float8 AS sighted_s,
    extract(epoch FROM w.quarantined_at)::float8 AS quarantined_at_s,
    w.reason,
    w.detail
FROM poller.watch AS w
WHERE w.task_pk = $1::bigint AND coalesce(w.task_id = $2::text, true)
