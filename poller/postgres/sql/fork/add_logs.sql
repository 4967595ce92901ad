-- add_logs: log rows of settlements in another database, each once; follows lock_logs in the same transaction there.
-- $1 text JSON array of lines as settle left them in the outbox, each with its floor
-- locks: held by lock_logs   writes: logs   returns: a row for each line that was not there yet (id of the log row)
--
-- A statement of its own: it must see what the last holder of the lock wrote.
WITH line AS MATERIALIZED (
    SELECT
        line.floor, line.task_pk, line.user_id, line.username, line.created_at, line.type, line.content,
        -- The ledger's key makes it unlike any other line.
        jsonb_build_object('task_pk', line.task_pk)::text AS other
    FROM jsonb_to_recordset($1::text::jsonb) AS line (
        floor bigint, task_pk bigint, user_id bigint, username text, created_at bigint, type bigint, content text
    )
),
added AS (
    INSERT INTO logs (user_id, username, created_at, type, content, other)
    SELECT line.user_id, line.username, line.created_at, line.type, line.content, line.other
    FROM line
    WHERE line.task_pk NOT IN (
        SELECT there.task_pk
        FROM line AS there
        -- A try of ours can only have added it above the floor: a few rows by their key, whatever the size of the table.
        JOIN logs AS l ON l.other = there.other AND l.created_at = there.created_at
        WHERE l.id > (SELECT coalesce(min(low.floor), 0) FROM line AS low)
    )
    ORDER BY line.task_pk
    RETURNING logs.id
)
SELECT added.id FROM added
