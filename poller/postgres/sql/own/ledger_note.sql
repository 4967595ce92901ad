-- ledger_note: whether the ledger still holds the settlement noted last, and a newer one noted in its place.
-- no parameters   locks: control, once a minute at most
-- returns: one row (is_whole boolean, noted_at text)
--
-- Note and ledger are in one database and the note is the later of the two: a restore or a failover that loses commits
-- takes both back together. What is older than a week, a job may have deleted.
WITH state AS (
    SELECT
        control.ledger_at,
        control.ledger_at > now() - interval '7 days' AS is_recent,
        (
            EXISTS (SELECT FROM poller.ledger WHERE ledger.task_pk = control.ledger_pk)
            OR EXISTS (SELECT FROM poller.ledger WHERE ledger.set_aside_of = control.ledger_pk)
        ) AS is_there
    FROM poller.control
),
noted AS (
    UPDATE poller.control
    SET ledger_pk = newest.task_pk, ledger_at = newest.settled_at
    FROM
        state,
        (SELECT ledger.task_pk, ledger.settled_at FROM poller.ledger ORDER BY ledger.settled_at DESC LIMIT 1) AS newest
    WHERE (state.is_there OR state.is_recent IS NOT TRUE)
        AND (state.ledger_at IS NULL OR newest.settled_at > state.ledger_at + interval '1 minute' OR NOT state.is_there)
)
SELECT
    (state.is_there OR state.is_recent IS NOT TRUE) AS is_whole,
    to_char(state.ledger_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS noted_at
FROM state
