-- watched: what is remembered about the tasks of a page.
-- $1 bigint pk after which the page starts   $2 bigint last pk of the page
-- locks: none
-- returns: one row a remembered task
SELECT
    w.task_pk, w.sightings, coalesce(extract(epoch FROM w.sighted_at), 0)::float8 AS sighted_s,
    w.quarantined_at IS NOT NULL AS is_quarantined, w.key_digest
FROM poller.watch AS w
WHERE w.task_pk > $1::bigint AND w.task_pk <= $2::bigint
