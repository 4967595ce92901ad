-- remember_keys: which key of a multi-key channel answered for a task, as a digest.
-- $1 bigint channel   $2 bigint[] pks, ascending   $3 text[] task ids   $4 text[] digests
-- locks: the notes, in pk order
-- returns: the pks written; a note that says so already is left alone
INSERT INTO poller.watch AS w (task_pk, task_id, channel_id, key_digest)
SELECT n.task_pk, n.task_id, $1::bigint, n.key_digest
FROM unnest($2::bigint[], $3::text[], $4::text[]) AS n (task_pk, task_id, key_digest)
-- Another replica may have settled it meanwhile. OFFSET keeps this a look-up by key, however the ledger grows.
WHERE NOT EXISTS (SELECT FROM poller.ledger AS l WHERE l.task_pk = n.task_pk OFFSET 0)
ORDER BY n.task_pk
ON CONFLICT (task_pk) DO UPDATE
    SET key_digest = excluded.key_digest, task_id = excluded.task_id,
        -- What was noted of a former task with this key says nothing of this one.
        sightings = CASE WHEN w.task_id <> excluded.task_id THEN 0 ELSE w.sightings END,
        quarantined_at = CASE WHEN w.task_id <> excluded.task_id THEN NULL ELSE w.quarantined_at END
    WHERE w.key_digest <> excluded.key_digest OR w.task_id <> excluded.task_id
RETURNING w.task_pk
