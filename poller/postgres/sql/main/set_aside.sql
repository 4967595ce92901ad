-- set_aside: ledger rows whose task is gone give up their key to the task that has it now; follows lock in the same
--   transaction, so nobody settles these tasks meanwhile. The owner of schema poller may, the daemon's role may not.
-- $1 bigint[] pks   $2 text who does it
-- locks: held by lock, and the ledger rows   writes: ledger, operator_action
-- returns: one row a pk (pk bigint, verdict text), by pk
--   set_aside: its key is free from now on   free: it was   gone: there is no such task of ours
--   returned: the task was settled itself, before its ledger row was set aside for another one that had its key
--   own: the ledger row may be its own, the ids agree   older: so it may, the task is older than that settlement
--   undelivered: the log row of that settlement, which is known by the key, is still to be delivered
WITH seen AS MATERIALIZED (
    SELECT
        a.pk,
        CASE
            WHEN t.id IS NULL THEN 'gone'
            WHEN o.user_id = coalesce(t.user_id, 0) THEN 'returned'
            -- Whatever its user: accounts are merged.
            WHEN o.task_pk IS NOT NULL OR l.task_id = coalesce(t.task_id, '') THEN 'own'
            WHEN l.task_pk IS NULL THEN 'free'
            -- Ids are rewritten, too. Gateways count whole seconds.
            WHEN coalesce(nullif(t.submit_time, 0), t.created_at, 0) < floor(extract(epoch FROM l.settled_at)) THEN 'older'
            WHEN EXISTS (SELECT FROM poller.outbox AS x WHERE x.task_pk = a.pk AND x.kind = 'log') THEN 'undelivered'
            ELSE 'set_aside'
        END AS verdict
    FROM unnest($1::bigint[]) AS a (pk)
    LEFT JOIN tasks AS t ON t.id = a.pk AND t.platform = 'custompass'
    LEFT JOIN poller.ledger AS l ON l.task_pk = a.pk
    LEFT JOIN LATERAL (
        SELECT aside.task_pk, aside.user_id
        FROM poller.ledger AS aside
        WHERE aside.set_aside_of = a.pk AND aside.task_id = coalesce(t.task_id, '')
        -- The latest, without walking along the key.
        ORDER BY aside.task_pk + 0
        LIMIT 1
    ) AS o ON true
),
moved AS (
    UPDATE poller.ledger AS l
    SET task_pk = nextval('poller.ledger_aside'), set_aside_of = l.task_pk
    FROM seen
    WHERE l.task_pk = seen.pk AND seen.verdict = 'set_aside'
    RETURNING l.task_pk, l.set_aside_of, l.task_id, l.user_id, l.outcome, l.reserved, l.refunded
),
noted AS (
    INSERT INTO poller.operator_action (who, action, task_pk, detail)
    SELECT
        concat($2::text, ' as ', session_user),
        'ledger_set_aside',
        moved.set_aside_of,
        format(
            'settlement of task %s of user %s (%s, reserved=%s refunded=%s) is kept as ledger row %s',
            moved.task_id, moved.user_id, moved.outcome, moved.reserved, moved.refunded, moved.task_pk
        )
    FROM moved
    ORDER BY moved.set_aside_of
)
SELECT seen.pk, seen.verdict FROM seen ORDER BY seen.pk
