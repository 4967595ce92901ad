-- add_logs: log rows of settlements in another database, each once; follows lock_logs in the same transaction there.
-- $1 text JSON array of lines as settle left them in the outbox, each with its floor
-- locks: held by lock_logs   writes: logs   returns: a row for each line that was not there yet (id of the log row)
--
-- A statement of its own: it must see what the last holder of the lock wrote.
WITH line AS MATERIALIZED (
    SELECT line.*
    FROM jsonb_to_recordset($1::text::jsonb) AS line (
        floor bigint, task_pk bigint, user_id bigint, created_at bigint, type bigint, content text, username text,
        token_name text, model_name text, quota bigint, prompt_tokens bigint, completion_tokens bigint,
        channel_id bigint, token_id bigint, "group" text, other text, request_id text
    )
),
added AS (
    INSERT INTO logs (
        user_id, created_at, type, content, username, token_name, model_name, quota, prompt_tokens, completion_tokens,
        channel_id, token_id, "group", other, request_id
    )
    SELECT
        line.user_id, line.created_at, line.type, line.content, line.username, line.token_name, line.model_name,
        line.quota, line.prompt_tokens, line.completion_tokens, line.channel_id, line.token_id, line."group",
        line.other, line.request_id
    FROM line
    WHERE line.task_pk NOT IN (
        SELECT there.task_pk
        FROM line AS there
        -- Named by the ledger's key and the settling attempt. A try of ours can only have added it above the floor.
        JOIN logs AS l ON l.request_id = there.request_id
        WHERE l.id > (SELECT coalesce(min(low.floor), 0) FROM line AS low)
    )
    ORDER BY line.task_pk
    RETURNING logs.id
)
SELECT added.id FROM added
