-- add_logs: log rows of settlements in another database, each once; follows lock_logs in the same transaction there.
-- $1 text JSON array of lines as settle left them in the outbox, each with its floor
-- locks: held by lock_logs   writes: logs   returns: a row for each line that was not there yet (id of the log row)
--
-- A statement of its own: it must see what the last holder of the lock wrote.
WITH line AS MATERIALIZED (
    SELECT
        line.floor, line.task_pk, line.user_id, line.type, line.quota, line.model_name, line.prompt_tokens,
        line.completion_tokens, line.created_at,
        -- The ledger's key makes it unlike any other line; this gateway's log has no field for it.
        concat(line.content, ' [ledger ', line.task_pk, ']') AS content
    FROM jsonb_to_recordset($1::text::jsonb) AS line (
        floor bigint, task_pk bigint, user_id bigint, type text, quota bigint, model_name text, prompt_tokens bigint,
        completion_tokens bigint, content text, created_at timestamptz
    )
),
added AS (
    INSERT INTO logs (user_id, type, quota, model_name, prompt_tokens, completion_tokens, content, created_at)
    SELECT
        line.user_id, line.type, line.quota, line.model_name, line.prompt_tokens, line.completion_tokens, line.content,
        line.created_at
    FROM line
    WHERE line.task_pk NOT IN (
        SELECT there.task_pk
        FROM line AS there
        -- A try of ours can only have added it above the floor: a few rows by their key, whatever the size of the table.
        JOIN logs AS l ON l.content = there.content AND l.user_id = there.user_id
        WHERE l.id > (SELECT coalesce(min(low.floor), 0) FROM line AS low)
    )
    ORDER BY line.task_pk
    RETURNING logs.id
)
SELECT added.id FROM added
