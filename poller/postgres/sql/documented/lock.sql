-- lock: everything that settling these tasks may touch, always in the same order; the first statement of its transaction.
-- $1 bigint[] pks   $2 bigint[] those of them that may move money   $3 text lock_timeout in milliseconds
-- $4 boolean whether channels are lowered too (profile fork)
-- locks: task rows of our platform, then users, each in id order, until the transaction ends
-- returns: one row, how many of each were locked, and whether the ledger still holds what it held (see ledger_note),
--   whether tasks still is this profile's table, and whose the ledger is, where it is of other tasks
--
-- Each kind waits for the one before it because it reads its result: the order of CTEs alone means nothing. The
-- arrays go through sub-selects so that the planner never weighs their length: it shall use the keys, always.
WITH limits AS MATERIALIZED (
    SELECT
        set_config('lock_timeout', $3::text, true) AS lock_timeout,
        -- The statement that follows is large to plan, and finds all its rows by key.
        set_config('plan_cache_mode', 'force_generic_plan', true) AS plan_cache_mode,
        set_config('enable_seqscan', 'off', true) AS enable_seqscan,
        $4::boolean AS lowers_channels
),
task AS MATERIALIZED (
    SELECT
        t.id,
        t.user_id,
        t.channel_id,
        -- IS TRUE makes it a look-up in a hash table.
        (t.id IN (SELECT unnest($2::bigint[]))) IS TRUE AS may_move
    FROM limits
    CROSS JOIN tasks AS t
    WHERE t.id = ANY(ARRAY(SELECT unnest($1::bigint[])))
        AND t.platform = 'custompass'
        AND limits.lock_timeout IS NOT NULL
    ORDER BY t.id
    FOR NO KEY UPDATE OF t
),
owner AS MATERIALIZED (
    SELECT u.id
    FROM users AS u
    WHERE u.id = ANY(ARRAY(SELECT task.user_id FROM task WHERE task.may_move))
    ORDER BY u.id
    FOR NO KEY UPDATE
)
SELECT
    (SELECT count(*) FROM task) AS tasks,
    (SELECT count(*) FROM owner) AS users,
    0::bigint AS tokens,
    0::bigint AS subscriptions,
    0::bigint AS channels,
    NOT EXISTS (
        SELECT
        FROM poller.control AS c
        WHERE c.ledger_at > now() - interval '7 days'
            AND NOT EXISTS (SELECT FROM poller.ledger AS l WHERE l.task_pk = c.ledger_pk)
            AND NOT EXISTS (SELECT FROM poller.ledger AS l WHERE l.set_aside_of = c.ledger_pk)
    ) AS is_ledger_whole,
    -- A gateway that is upgraded under us alters the table; while we hold rows of it, it cannot.
    NOT EXISTS (
        SELECT
        FROM pg_attribute AS a
        WHERE a.attrelid = 'tasks'::regclass AND a.attname IN ('token_id', 'private_data', 'submit_time') AND NOT a.attisdropped
    ) AS is_of_profile,
    -- The schema of other tasks than those that the ledger is about, or NULL; see home.
    (
        SELECT c.gateway_schema
        FROM poller.control AS c
        WHERE c.gateway_schema <> (
            SELECT n.nspname
            FROM pg_class AS r
            JOIN pg_namespace AS n ON n.oid = r.relnamespace
            WHERE r.oid = 'tasks'::regclass
        )
    ) AS other_home
