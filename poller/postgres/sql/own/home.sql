-- home: the schema of the table tasks that this session finds, and that of the tasks which schema poller belongs to.
-- $1 boolean note the one that is found, where none is noted yet
-- locks: control, when it is noted   returns: one row (noted text or NULL, found text or NULL)
--
-- NULL after noting: somebody else noted just now, and a second look tells.
WITH here AS (
    SELECT n.nspname::text AS name
    FROM pg_class AS c
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid = to_regclass('tasks')
),
claimed AS (
    UPDATE poller.control
    SET gateway_schema = here.name
    FROM here
    WHERE control.gateway_schema IS NULL AND $1::boolean
    RETURNING gateway_schema
)
SELECT
    coalesce(control.gateway_schema, (SELECT claimed.gateway_schema FROM claimed)) AS noted,
    (SELECT here.name FROM here) AS found
FROM poller.control
