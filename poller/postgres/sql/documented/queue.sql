-- queue: how many tasks are active, and for how long the worst served lane has not asked.
-- no parameters   locks: none
-- returns: one row (submitted bigint, processing bigint, oldest_unasked_s float8 or NULL when nothing is active)
WITH sample AS (
    -- At most this many rows are read. The order is that of the index, or a big table would be read through instead.
    SELECT status
    FROM tasks
    WHERE platform = 'custompass' AND status IN ('submitted', 'processing')
    ORDER BY channel_id, id
    LIMIT 50000
),
counted AS (
    SELECT
        count(*) AS seen,
        count(*) FILTER (WHERE status = 'submitted') AS submitted
    FROM sample
),
scaled AS (
    -- Above the limit: the planner's own estimate of the index, in the proportions of the sample.
    SELECT
        seen,
        submitted,
        CASE
            WHEN seen < 50000 THEN 1.0
            ELSE greatest(1.0, coalesce(
                (SELECT reltuples FROM pg_class WHERE oid = to_regclass('poller_active_tasks')), 0
            ) / seen)
        END AS factor
    FROM counted
),
waiting AS (
    -- A lane's tasks were last asked for when its pass began; tasks younger than that pass, when they were submitted.
    -- A time in the future is garbage and says nothing.
    SELECT greatest(
        extract(epoch FROM lane.pass_started_at),
        (
            SELECT CASE WHEN born <= extract(epoch FROM now()) THEN born END
            FROM (
                SELECT extract(epoch FROM created_at) AS born
                FROM tasks
                WHERE platform = 'custompass' AND status IN ('submitted', 'processing')
                    AND tasks.channel_id = lane.channel_id
                ORDER BY tasks.id
                LIMIT 1
            ) AS first_task
        )
    ) AS asked
    FROM poller.lane AS lane
    WHERE lane.has_work
)
SELECT
    round(submitted * factor)::bigint AS submitted,
    round((seen - submitted) * factor)::bigint AS processing,
    (SELECT greatest(0, extract(epoch FROM now()) - min(asked)) FROM waiting)::float8 AS oldest_unasked_s
FROM scaled
