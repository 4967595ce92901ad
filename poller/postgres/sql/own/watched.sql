-- watched: what is remembered about the tasks of a page.
-- $1 bigint pk after which the page starts   $2 bigint last pk of the page   $3 bigint channel of the page
-- locks: none
-- returns: one row a remembered task
SELECT
    w.task_pk,
    -- What another channel did not find, before the task was moved, says nothing of this one.
    CASE WHEN w.channel_id = $3::bigint THEN w.sightings ELSE 0 END AS sightings,
    coalesce(extract(epoch FROM w.sighted_at), 0)::float8 AS sighted_s,
    w.quarantined_at IS NOT NULL AS is_quarantined, w.key_digest, w.task_id
FROM poller.watch AS w
WHERE w.task_pk > $1::bigint AND w.task_pk <= $2::bigint
