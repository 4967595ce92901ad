-- requeue: tasks leave the quarantine and are asked about again; what was counted about them starts anew.
-- $1 bigint[] pks   $2 text who does it
-- locks: the notes   writes: watch, operator_action
-- returns: the pks that were in quarantine
--
-- Sightings go too: not_found counts in a row, and nobody asked meanwhile.
WITH freed AS (
    DELETE FROM poller.watch AS w
    WHERE w.task_pk = ANY ($1::bigint[]) AND w.quarantined_at IS NOT NULL AND w.key_digest = ''
    RETURNING w.task_pk, w.reason
),
kept AS (
    -- The key that answered for it stays known.
    UPDATE poller.watch AS w
    SET quarantined_at = NULL, reason = '', detail = '', sightings = 0, sighted_at = NULL
    FROM poller.watch AS before
    WHERE w.task_pk = ANY ($1::bigint[]) AND w.quarantined_at IS NOT NULL AND w.key_digest <> ''
        AND before.task_pk = w.task_pk
    RETURNING w.task_pk, before.reason
),
done AS (
    SELECT task_pk, reason FROM freed
    UNION ALL
    SELECT task_pk, reason FROM kept
),
noted AS (
    INSERT INTO poller.operator_action (who, action, task_pk, detail)
    SELECT concat($2::text, ' as ', session_user), 'requeue', done.task_pk, concat('was held for: ', done.reason)
    FROM done
    ORDER BY done.task_pk
)
SELECT task_pk FROM done ORDER BY task_pk
