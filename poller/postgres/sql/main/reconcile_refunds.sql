-- reconcile_refunds: log rows of refunds, in the order of reconcile_owed. Runs where the logs are.
-- $1 float8 epoch seconds: only rows since   locks: none
-- returns: a cursor (user_id, key, at_us); key is that of reconcile_owed
DECLARE refunds NO SCROLL CURSOR FOR
WITH refund AS (
    SELECT
        coalesce(l.user_id, 0)::bigint AS user_id,
        CASE l.type
            WHEN 6 THEN
                CASE
                    WHEN strpos(named.quoted, '\') = 0 THEN substr(named.quoted, 2, length(named.quoted) - 2)
                    -- Go escapes more than it must; whatever it never writes could not be decoded.
                    WHEN named.quoted ~ '^"([^\\[:cntrl:]]|\\(["\\/bfnrt]|u00(0[1-9a-f]|[1-7][0-9a-f])|u202[89]))*"$'
                        THEN named.quoted::json #>> '{}'
                END
            -- What the fork wrote, where the database was one of the fork before.
            ELSE coalesce(
                substring(l.content FROM '任务ID: (.*?), 补偿 '), substring(l.content FROM '任务执行失败 (.*?)，补偿 ')
            )
        END COLLATE "C" AS key,
        -- Microseconds, written by somebody who took the column for that, would not fit.
        least(l.created_at, 9000000000000)::bigint * 1000000 AS at_us
    FROM logs AS l
    -- Text, and not always JSON.
    CROSS JOIN LATERAL (SELECT substring(l.other FROM '"task_id": ?("(?:[^"\\]|\\.)*")') AS quoted) AS named
    WHERE l.type IN (4, 6) AND l.created_at >= $1::float8
)
SELECT refund.user_id, refund.key, refund.at_us FROM refund
WHERE refund.key IS NOT NULL
ORDER BY user_id, key, at_us DESC
