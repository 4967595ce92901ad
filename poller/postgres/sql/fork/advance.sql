-- advance: later open states and new progress; a status never goes back, a final row never changes.
-- $1 bigint[] pks   $2 text[] task ids   $3 text[] states   $4 text[] progress   $5 text[] data (NULL: leave it)
-- locks: the task rows that change, in pk order; a row that somebody holds is left for the next pass
-- returns: the pks that really changed
-- Statuses are compared by their place in the list; NULL and every other word rank below all of them.
WITH changing AS MATERIALIZED (
    -- Only what differs is locked: a lock alone would already write to the row.
    SELECT t.id
    FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[]) AS n (pk, task_id, state, progress)
    JOIN tasks AS t ON t.id = n.pk
    WHERE t.platform = 'custompass' AND (t.status IS NULL OR t.status NOT IN ('SUCCESS', 'FAILURE'))
        AND t.task_id = n.task_id
        AND (
            array_position('{NOT_START,SUBMITTED,QUEUED,IN_PROGRESS}'::text[], n.state)
                > coalesce(array_position('{NOT_START,SUBMITTED,QUEUED,IN_PROGRESS}'::text[], t.status::text), 0)
            OR (n.progress NOT IN ('', '100%') AND n.progress IS DISTINCT FROM t.progress)
        )
    ORDER BY t.id
    FOR NO KEY UPDATE OF t SKIP LOCKED
)
UPDATE tasks AS t
SET status = CASE
        WHEN array_position('{NOT_START,SUBMITTED,QUEUED,IN_PROGRESS}'::text[], n.state)
            > coalesce(array_position('{NOT_START,SUBMITTED,QUEUED,IN_PROGRESS}'::text[], t.status::text), 0)
        THEN n.state
        ELSE t.status
    END,
    -- The gateway's selectors take 100% for finished.
    progress = CASE WHEN n.progress IN ('', '100%') THEN t.progress ELSE n.progress END,
    data = coalesce(n.data::json, t.data::json),
    updated_at = floor(extract(epoch FROM now()))::bigint
FROM unnest($1::bigint[], $3::text[], $4::text[], $5::text[]) AS n (pk, state, progress, data)
WHERE t.id = n.pk
    -- IS TRUE makes it a look-up in a hash table, whatever number of rows the planner expects.
    AND (n.pk IN (SELECT changing.id FROM changing)) IS TRUE
    AND t.platform = 'custompass' AND (t.status IS NULL OR t.status NOT IN ('SUCCESS', 'FAILURE'))
RETURNING t.id::bigint AS pk
