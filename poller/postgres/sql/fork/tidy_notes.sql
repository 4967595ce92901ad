-- tidy_notes: notes of tasks that are not open any more, whoever ended or deleted them, or gave their key to another.
-- $1 bigint pk after which to look   $2 bigint how many notes at most
-- locks: the notes that go; one that somebody writes is left for the next round
-- returns: one row: the pk looked at last (NULL: there is none behind $1), and how many notes are gone
--
-- Settling forgets what it settles. This is for tasks that we do not settle, and for a note that another replica wrote
-- while we did.
WITH looked AS MATERIALIZED (
    SELECT w.task_pk, w.task_id FROM poller.watch AS w WHERE w.task_pk > $1::bigint ORDER BY w.task_pk LIMIT $2::bigint
),
over AS MATERIALIZED (
    SELECT looked.task_pk
    FROM looked
    WHERE NOT EXISTS (
        -- OFFSET keeps this a look-up by key for each: the planner does not know how few they are.
        SELECT
        FROM tasks AS t
        WHERE t.id = looked.task_pk AND coalesce(looked.task_id = coalesce(t.task_id, ''), true)
            AND t.platform = 'custompass' AND (t.status IS NULL OR t.status NOT IN ('SUCCESS', 'FAILURE'))
        OFFSET 0
    )
),
held AS MATERIALIZED (
    SELECT w.task_pk
    FROM poller.watch AS w
    WHERE w.task_pk = ANY(ARRAY(SELECT over.task_pk FROM over))
    FOR UPDATE SKIP LOCKED
),
gone AS (
    DELETE FROM poller.watch AS w
    WHERE w.task_pk = ANY(ARRAY(SELECT held.task_pk FROM held))
    RETURNING w.task_pk
)
SELECT (SELECT max(looked.task_pk) FROM looked) AS last_pk, (SELECT count(*) FROM gone) AS forgotten
