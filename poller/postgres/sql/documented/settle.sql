-- settle: final statuses and the money they free, exactly once; follows lock in the same transaction.
-- $1 bigint[] pks, ascending   $2 text[] task ids   $3 bigint[] users   $4 bigint[] channels   $5 text[] models
-- $6 text[] outcomes   $7 bigint[] charged (NULL: as reserved)   $8 text[] rules   $9 text[] price sources
-- $10 bigint[] prompt tokens   $11 bigint[] completion tokens   $12 text[] fail reasons
-- $13 text[] data (NULL: leave it)   $14 text[] evidence   $15 uuid attempt   $16 text replica
-- $17 boolean lower channels.used_quota after a failure (profile fork)   $18 boolean logs live in another database
-- $19 boolean the gateway caches balances
-- $20 boolean these are finished without a ledger row, and owed money (reconcile): only their amounts change
-- locks: held by lock   writes: ledger, tasks, users, logs or outbox, watch
-- returns: one row a pk: verdict (model.Verdict), reason, amounts; short names the first table whose row count is not
--   what it must be, on every row alike: the transaction must be rolled back then
--
-- A statement that writes in CTEs reads everything as it was before: the rows as lock left them to us.
WITH setting AS MATERIALIZED (
    -- Means nothing here; named because all profiles take the same parameters.
    SELECT $17::boolean AS lowers_channels
),
seen AS MATERIALIZED (
    SELECT
        a.pk, a.task_id, a.user_id, a.channel_id, a.model, a.price_source, a.prompt_tokens, a.completion_tokens,
        a.data, a.evidence,
        coalesce(l.outcome, a.outcome) AS outcome,
        coalesce(l.rule, a.rule) AS rule,
        coalesce(l.fail_reason, a.fail_reason) AS fail_reason,
        amount.reserved,
        amount.charged,
        l.task_pk IS NOT NULL AS is_in_ledger,
        coalesce(l.attempt = $15::uuid, false) AS is_ours,
        t.id IS NOT NULL AS is_there,
        coalesce(t.status IN ('submitted', 'processing'), false) AS is_active,
        CASE
            WHEN $20::boolean THEN
                -- As it was read; a failed task that has used something is for a person.
                coalesce(t.status = CASE a.outcome WHEN 'SUCCESS' THEN 'completed' ELSE 'failed' END, false)
                AND coalesce(t.used_quota, 0) = a.charged
                AND coalesce(t.quota, 0) > coalesce(t.used_quota, 0)
                AND coalesce(t.updated_at <= now() - interval '10 minutes', true)
            ELSE coalesce(t.status IN ('submitted', 'processing'), false)
        END AS is_owed,
        -- NULL reads as zero value, as in all gateways.
        coalesce(t.task_id, '') = a.task_id
            AND coalesce(t.user_id, 0) = a.user_id
            AND coalesce(t.channel_id, 0) = a.channel_id AS is_same,
        -- A row that is gone contradicts nothing.
        coalesce(t.id IS NULL OR (l.task_id = coalesce(t.task_id, '') AND l.user_id = coalesce(t.user_id, 0)), true)
            AS is_same_in_ledger,
        -- A whole-row save brings back what was reserved, or what we wrote; any other amount is a new charge.
        coalesce(coalesce(t.quota, 0) IN (l.reserved, l.charged), true) AS is_same_amount,
        CASE
            WHEN amount.reserved < 0 THEN 'quota_negative'
            WHEN amount.charged <> amount.reserved AND u.id IS NULL THEN 'user_gone'
            ELSE ''
        END AS obstacle
    FROM unnest(
        $1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::bigint[], $8::text[],
        $9::text[], $10::bigint[], $11::bigint[], $12::text[], $13::text[], $14::text[]
    ) AS a (
        pk, task_id, user_id, channel_id, model, outcome, charged, rule,
        price_source, prompt_tokens, completion_tokens, fail_reason, data, evidence
    )
    LEFT JOIN tasks AS t ON t.id = a.pk AND t.platform = 'custompass'
    CROSS JOIN LATERAL (
        -- This very task may have been settled, and its row set aside since for another one that had its key. OFFSET
        -- keeps this from walking along the key.
        SELECT coalesce(min(o.task_pk), a.pk) AS pk
        FROM (
            SELECT aside.task_pk
            FROM poller.ledger AS aside
            WHERE aside.set_aside_of = a.pk AND aside.task_id = coalesce(t.task_id, '')
            OFFSET 0
        ) AS o
    ) AS kept
    LEFT JOIN LATERAL (
        -- One by one with the key: a plan that was made while the ledger was empty would else read through all of it.
        SELECT b.task_pk, b.task_id, b.user_id, b.outcome, b.rule, b.fail_reason, b.reserved, b.charged, b.attempt
        FROM poller.ledger AS b
        WHERE b.task_pk = kept.pk
        LIMIT 1
    ) AS l ON true
    LEFT JOIN users AS u ON u.id = t.user_id
    -- What was reserved is what the locked row says; a settled task keeps the amounts of its ledger row.
    CROSS JOIN LATERAL (
        SELECT
            coalesce(l.reserved, t.quota, 0)::bigint AS reserved,
            coalesce(l.charged, a.charged, t.quota, 0)::bigint AS charged
    ) AS amount
),
judged AS MATERIALIZED (
    SELECT
        seen.*,
        CASE
            WHEN seen.is_in_ledger AND NOT seen.is_same_in_ledger THEN 'quarantined'
            WHEN seen.is_in_ledger AND seen.is_active AND NOT seen.is_same_amount THEN 'quarantined'
            WHEN seen.is_ours THEN 'settled'
            WHEN seen.is_in_ledger AND seen.is_active THEN 'reopened'
            WHEN seen.is_in_ledger THEN 'already'
            WHEN NOT seen.is_there THEN 'gone'
            WHEN NOT seen.is_owed THEN 'final'
            WHEN NOT seen.is_same THEN 'moved'
            WHEN seen.obstacle <> '' THEN 'quarantined'
            ELSE 'settled'
        END AS verdict,
        NOT seen.is_in_ledger AND seen.is_owed AND seen.is_same AND seen.obstacle = '' AS is_due,
        -- Opened again by a whole-row save of the gateway after we settled it: put back, without money.
        seen.is_in_ledger AND seen.is_active AND seen.is_same_in_ledger AND seen.is_same_amount AS is_restored
    FROM seen
),
booked AS (
    -- The key of the ledger is what makes a settlement happen once: all that follows starts from the rows of this.
    INSERT INTO poller.ledger (
        task_pk, task_id, user_id, channel_id, model, outcome, rule, reserved, charged, refunded,
        price_source, prompt_tokens, completion_tokens, fail_reason, evidence, attempt, replica
    )
    SELECT
        j.pk, j.task_id, j.user_id, j.channel_id, j.model, j.outcome, j.rule, j.reserved, j.charged,
        j.reserved - j.charged, j.price_source, j.prompt_tokens, j.completion_tokens, j.fail_reason, j.evidence,
        $15::uuid, $16::text
    FROM judged AS j
    WHERE j.is_due
    ORDER BY j.pk
    ON CONFLICT (task_pk) DO NOTHING
    RETURNING
        task_pk, task_id, user_id, channel_id, model, outcome, rule, reserved, charged, refunded,
        prompt_tokens, completion_tokens, fail_reason
),
written AS (
    UPDATE tasks AS t
    SET status = CASE j.outcome WHEN 'SUCCESS' THEN 'completed' ELSE 'failed' END,
        progress = '100%',
        -- Both: so the guide's own repair SQL finds nothing that is still owed. What was reserved is in the ledger.
        quota = j.charged,
        used_quota = j.charged,
        fail_reason = CASE WHEN j.is_active AND j.outcome = 'FAILURE' THEN j.fail_reason ELSE t.fail_reason END,
        data = CASE WHEN j.is_due AND j.data IS NOT NULL THEN j.data::jsonb ELSE t.data END,
        updated_at = now()
    FROM judged AS j
    WHERE t.id = j.pk
        -- Under OR the IN stays a look-up in a hash table, whatever number of rows the planner expects.
        AND (j.is_restored OR j.pk IN (SELECT b.task_pk FROM booked AS b))
        AND t.platform = 'custompass' AND ($20::boolean OR t.status IN ('submitted', 'processing'))
    RETURNING t.id
),
owed AS MATERIALIZED (
    -- Summed first: UPDATE … FROM changes a user once, however many of the rows are theirs.
    SELECT b.user_id, sum(b.refunded)::bigint AS refunded, min(b.task_pk) AS task_pk
    FROM booked AS b
    WHERE b.refunded <> 0
    GROUP BY b.user_id
),
paid AS (
    UPDATE users AS u
    SET quota = coalesce(u.quota, 0) + owed.refunded,
        used_quota = coalesce(u.used_quota, 0) - owed.refunded
    FROM owed
    WHERE u.id = owed.user_id
    RETURNING u.id
),
line AS MATERIALIZED (
    SELECT
        b.task_pk,
        b.user_id,
        CASE WHEN b.refunded > 0 THEN 'refund' ELSE 'consume' END AS type,
        abs(b.refunded) AS quota,
        b.model AS model_name,
        b.prompt_tokens,
        b.completion_tokens,
        CASE b.outcome
            WHEN 'FAILURE' THEN concat('task ', b.task_id, ' failed: ', b.fail_reason)
            ELSE concat('task ', b.task_id, ' settled')
        END AS content,
        now() AS created_at
    FROM booked AS b
    WHERE b.refunded <> 0
),
logged AS (
    INSERT INTO logs (user_id, type, quota, model_name, prompt_tokens, completion_tokens, content, created_at)
    SELECT
        line.user_id, line.type, line.quota, line.model_name, line.prompt_tokens, line.completion_tokens, line.content,
        line.created_at
    FROM line
    WHERE NOT $18::boolean
    ORDER BY line.task_pk
),
posted AS (
    INSERT INTO poller.outbox (kind, task_pk, payload)
    SELECT 'log', line.task_pk, to_jsonb(line) FROM line WHERE $18::boolean
    UNION ALL
    SELECT 'user_cache', owed.task_pk, jsonb_build_object('user_id', owed.user_id, 'delta', owed.refunded)
    FROM owed
    WHERE $19::boolean
),
forgotten AS (
    DELETE FROM poller.watch AS w
    WHERE w.task_pk = ANY(ARRAY(
        SELECT j.pk FROM judged AS j WHERE j.is_due OR j.verdict IN ('settled', 'reopened', 'already')
    ))
),
counted AS MATERIALIZED (
    SELECT
        CASE
            WHEN (SELECT count(*) FROM booked) <> (SELECT count(*) FROM judged AS j WHERE j.is_due) THEN 'ledger_row'
            WHEN (SELECT count(*) FROM written) <> (SELECT count(*) FROM judged AS j WHERE j.is_due OR j.is_restored)
                THEN 'task_row'
            WHEN (SELECT count(*) FROM paid) <> (SELECT count(*) FROM owed) THEN 'user_row'
            ELSE ''
        END AS short
)
SELECT
    j.pk,
    j.verdict,
    CASE
        WHEN j.verdict <> 'quarantined' THEN ''
        WHEN NOT j.is_same_in_ledger THEN 'ledger_of_another_task'
        WHEN j.is_in_ledger THEN 'ledger_of_another_amount'
        ELSE j.obstacle
    END AS reason,
    j.is_restored,
    CASE WHEN j.is_due OR j.is_in_ledger THEN j.outcome ELSE '' END AS outcome,
    j.rule,
    CASE WHEN j.is_due OR j.is_in_ledger THEN j.reserved ELSE 0 END AS reserved,
    CASE WHEN j.is_due OR j.is_in_ledger THEN j.charged ELSE 0 END AS charged,
    counted.short
FROM judged AS j
CROSS JOIN counted
ORDER BY j.pk
