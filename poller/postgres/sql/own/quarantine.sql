-- quarantine: leave tasks out of all pages until a person has looked at them; the first reason stays.
-- $1 bigint[] pks, ascending   $2 text[] task ids   $3 bigint[] channels   $4 text[] reasons   $5 text[] details
-- locks: the notes, in pk order
-- returns: the pks that were not in quarantine before
INSERT INTO poller.watch AS w (task_pk, task_id, channel_id, quarantined_at, reason, detail)
SELECT q.task_pk, q.task_id, q.channel_id, now(), q.reason, q.detail
FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::text[], $5::text[])
    AS q (task_pk, task_id, channel_id, reason, detail)
-- Another replica may have settled it meanwhile, or a person have set aside the ledger row that was in its way.
WHERE CASE q.reason
    WHEN 'ledger_of_another_task' THEN
        EXISTS (SELECT FROM poller.ledger AS l WHERE l.task_pk = q.task_pk)
        OR EXISTS (SELECT FROM poller.ledger AS l WHERE l.set_aside_of = q.task_pk AND l.task_id = q.task_id)
    ELSE q.reason LIKE 'ledger%'
        OR NOT EXISTS (SELECT FROM poller.ledger AS l WHERE l.task_pk = q.task_pk AND l.task_id = q.task_id)
END
ORDER BY q.task_pk
ON CONFLICT (task_pk) DO UPDATE
    SET channel_id = excluded.channel_id, quarantined_at = excluded.quarantined_at, reason = excluded.reason,
        detail = excluded.detail, task_id = excluded.task_id,
        -- What was noted of a former task with this key says nothing of this one.
        sightings = CASE WHEN w.task_id <> excluded.task_id THEN 0 ELSE w.sightings END,
        key_digest = CASE WHEN w.task_id <> excluded.task_id THEN '' ELSE w.key_digest END
    WHERE w.quarantined_at IS NULL OR w.task_id <> excluded.task_id
RETURNING w.task_pk
