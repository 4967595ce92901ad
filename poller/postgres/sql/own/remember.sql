-- remember: keep or forget how often in a row upstream said not_found.
-- $1 bigint channel   $2 bigint[] pks, ascending   $3 text[] task ids   $4 integer[] sightings (0: forget)
-- locks: the notes, in pk order
-- returns: the pks written
WITH note AS MATERIALIZED (
    SELECT n.task_pk, n.task_id, n.sightings
    FROM unnest($2::bigint[], $3::text[], $4::integer[]) AS n (task_pk, task_id, sightings)
),
kept AS (
    INSERT INTO poller.watch AS w (task_pk, task_id, channel_id, sightings, sighted_at)
    SELECT note.task_pk, note.task_id, $1::bigint, note.sightings, now()
    FROM note
    -- Another replica may have settled it meanwhile. OFFSET keeps this a look-up by key, however the ledger grows.
    WHERE note.sightings > 0 AND NOT EXISTS (SELECT FROM poller.ledger AS l WHERE l.task_pk = note.task_pk OFFSET 0)
    ORDER BY note.task_pk
    ON CONFLICT (task_pk) DO UPDATE
        SET channel_id = excluded.channel_id, sightings = excluded.sightings, sighted_at = excluded.sighted_at,
            task_id = excluded.task_id,
            -- What was noted of a former task with this key says nothing of this one.
            key_digest = CASE WHEN w.task_id <> excluded.task_id THEN '' ELSE w.key_digest END,
            quarantined_at = CASE WHEN w.task_id <> excluded.task_id THEN NULL ELSE w.quarantined_at END
    RETURNING w.task_pk
),
cleared AS (
    -- A quarantined task keeps its row; only the count goes.
    UPDATE poller.watch AS w SET sightings = 0, sighted_at = NULL
    FROM note
    WHERE note.sightings = 0 AND w.task_pk = note.task_pk
        AND (w.quarantined_at IS NOT NULL OR w.key_digest <> '') AND w.sightings <> 0
    RETURNING w.task_pk
),
forgotten AS (
    DELETE FROM poller.watch AS w USING note
    WHERE note.sightings = 0 AND w.task_pk = note.task_pk AND w.quarantined_at IS NULL AND w.key_digest = ''
    RETURNING w.task_pk
)
SELECT task_pk FROM kept
UNION ALL SELECT task_pk FROM cleared
UNION ALL SELECT task_pk FROM forgotten
