-- settle: final statuses and the money they free, exactly once; follows lock in the same transaction.
-- $1 bigint[] pks, ascending   $2 text[] task ids   $3 bigint[] users   $4 bigint[] channels   $5 text[] models
-- $6 text[] outcomes   $7 bigint[] charged (NULL: as reserved)   $8 text[] rules   $9 text[] price sources
-- $10 bigint[] prompt tokens   $11 bigint[] completion tokens   $12 text[] fail reasons
-- $13 text[] data (NULL: leave it)   $14 text[] evidence   $15 uuid attempt   $16 text replica
-- $17 boolean lower channels.used_quota after a failure (profile fork)   $18 boolean logs live in another database
-- $19 boolean the gateway caches balances
-- $20 boolean these are finished without a ledger row, and owed money (reconcile): only their amounts change
-- locks: held by lock   writes: ledger, tasks, users, tokens, subscriptions, channels, logs or outbox, watch
-- returns: one row a pk: verdict (model.Verdict), reason, amounts; short names the first table whose row count is not
--   what it must be, on every row alike: the transaction must be rolled back then
--
-- A statement that writes in CTEs reads everything as it was before: the rows as lock left them to us.
WITH setting AS MATERIALIZED (
    SELECT
        floor(extract(epoch FROM now()))::bigint AS now_s,
        -- Means nothing here; named because all profiles take the same parameters.
        $17::boolean AS lowers_channels,
        coalesce(max(o.value), 'true') = 'true' AS logs_consumption
    FROM options AS o
    WHERE o.key = 'LogConsumeEnabled'
),
seen AS MATERIALIZED (
    SELECT
        a.pk, a.task_id, a.user_id, a.channel_id, a.model, a.price_source, a.prompt_tokens, a.completion_tokens,
        a.data, a.evidence,
        k.id AS token_id,
        purse.subscription_id,
        CASE WHEN purse.subscription_id IS NULL THEN 'wallet' ELSE 'subscription' END AS purse,
        coalesce(l.outcome, a.outcome) AS outcome,
        coalesce(l.rule, a.rule) AS rule,
        coalesce(l.fail_reason, a.fail_reason) AS fail_reason,
        amount.reserved,
        amount.charged,
        -- Charged by the fork, before this gateway was upgraded from it: that moved the balance and nothing else. Told
        -- as in rows.py, but from the text: what else stands in there may be no text to PostgreSQL.
        CASE
            WHEN t.private_data IS NULL THEN
                strpos(coalesce(t.properties::text, ''), '"origin_model_name"')
                + strpos(coalesce(t.properties::text, ''), '"upstream_model_name"') = 0
            ELSE false
        END AS is_forks,
        l.task_pk IS NOT NULL AS is_in_ledger,
        coalesce(l.attempt = $15::uuid, false) AS is_ours,
        t.id IS NOT NULL AS is_there,
        (t.id IS NOT NULL AND (t.status IS NULL OR t.status NOT IN ('SUCCESS', 'FAILURE'))) AS is_active,
        CASE
            WHEN $20::boolean THEN
                coalesce(t.status = 'FAILURE' AND t.quota > 0, false)
                AND coalesce(greatest(t.updated_at, t.finish_time) <= extract(epoch FROM now()) - 600, true)
            ELSE t.id IS NOT NULL AND (t.status IS NULL OR t.status NOT IN ('SUCCESS', 'FAILURE'))
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
            WHEN amount.charged <> amount.reserved AND purse.subscription_id IS NOT NULL AND s.id IS NULL
                THEN 'subscription_gone'
            WHEN amount.charged > amount.reserved AND s.amount_total > 0
                AND s.amount_used + (amount.charged - amount.reserved) > s.amount_total
                THEN 'subscription_overdrawn'
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
    CROSS JOIN LATERAL (
        SELECT
            p.token_id,
            CASE WHEN p.billing_source = 'subscription' AND p.subscription_id > 0 THEN p.subscription_id END
                AS subscription_id
        FROM json_to_record(
            CASE WHEN json_typeof(t.private_data::json) = 'object' THEN t.private_data::json ELSE '{}'::json END
        ) AS p (billing_source text, subscription_id bigint, token_id bigint)
    ) AS purse
    -- Unlimited tokens move too; one that is gone or somebody else's does not keep the money from its owner.
    LEFT JOIN tokens AS k ON k.id = purse.token_id AND k.id > 0 AND k.user_id = t.user_id
    LEFT JOIN user_subscriptions AS s ON s.id = purse.subscription_id AND s.user_id = t.user_id
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
        task_pk, task_id, user_id, channel_id, token_id, subscription_id, purse, model, outcome, rule,
        reserved, charged, refunded,
        price_source, prompt_tokens, completion_tokens, fail_reason, evidence, attempt, replica
    )
    SELECT
        j.pk, j.task_id, j.user_id, j.channel_id, j.token_id, j.subscription_id, j.purse, j.model, j.outcome, j.rule,
        j.reserved, j.charged, j.reserved - j.charged,
        j.price_source, j.prompt_tokens, j.completion_tokens, j.fail_reason, j.evidence, $15::uuid, $16::text
    FROM judged AS j
    WHERE j.is_due
    ORDER BY j.pk
    ON CONFLICT (task_pk) DO NOTHING
    RETURNING
        task_pk, task_id, user_id, channel_id, token_id, subscription_id, purse, model, outcome, rule,
        reserved, charged, refunded,
        prompt_tokens, completion_tokens, fail_reason
),
written AS (
    UPDATE tasks AS t
    SET status = j.outcome,
        progress = '100%',
        -- 0 on a failed task is this gateway's sign for: refunded.
        quota = j.charged,
        start_time = CASE WHEN j.is_active THEN coalesce(nullif(t.start_time, 0), setting.now_s) ELSE t.start_time END,
        finish_time = CASE
            WHEN j.is_active THEN greatest(setting.now_s, t.start_time, t.submit_time) ELSE t.finish_time
        END,
        fail_reason = CASE WHEN j.is_active AND j.outcome = 'FAILURE' THEN j.fail_reason ELSE t.fail_reason END,
        data = CASE WHEN j.is_due AND j.data IS NOT NULL THEN j.data::json ELSE t.data::json END,
        updated_at = setting.now_s
    FROM judged AS j
    CROSS JOIN setting
    WHERE t.id = j.pk
        -- Under OR the IN stays a look-up in a hash table, whatever number of rows the planner expects.
        AND (j.is_restored OR j.pk IN (SELECT b.task_pk FROM booked AS b))
        AND t.platform = 'custompass' AND ($20::boolean OR t.status IS NULL OR t.status NOT IN ('SUCCESS', 'FAILURE'))
    RETURNING t.id
),
owed AS MATERIALIZED (
    -- Summed first: UPDATE … FROM changes a user once, however many of the rows are theirs.
    SELECT
        b.user_id,
        coalesce(sum(b.refunded) FILTER (WHERE b.purse = 'wallet'), 0)::bigint AS wallet,
        coalesce(
            sum(b.refunded) FILTER (WHERE (b.task_pk IN (SELECT j.pk FROM judged AS j WHERE j.is_forks)) IS NOT TRUE), 0
        )::bigint AS mirrored,
        min(b.task_pk) AS task_pk
    FROM booked AS b
    WHERE b.refunded <> 0
    GROUP BY b.user_id
),
paid AS (
    UPDATE users AS u
    SET quota = coalesce(u.quota, 0) + owed.wallet,
        used_quota = coalesce(u.used_quota, 0) - owed.mirrored
    FROM owed
    WHERE u.id = owed.user_id
    RETURNING u.id
),
token_owed AS MATERIALIZED (
    SELECT b.token_id, sum(b.refunded)::bigint AS refunded, min(b.task_pk) AS task_pk
    FROM booked AS b
    WHERE b.refunded <> 0 AND b.token_id IS NOT NULL
    GROUP BY b.token_id
),
token_paid AS (
    UPDATE tokens AS k
    SET remain_quota = coalesce(k.remain_quota, 0) + o.refunded,
        used_quota = coalesce(k.used_quota, 0) - o.refunded,
        accessed_time = setting.now_s
    FROM token_owed AS o
    CROSS JOIN setting
    WHERE k.id = o.token_id
    RETURNING k.id
),
subscription_owed AS MATERIALIZED (
    SELECT b.subscription_id, sum(b.refunded)::bigint AS refunded
    FROM booked AS b
    WHERE b.refunded <> 0 AND b.purse = 'subscription'
    GROUP BY b.subscription_id
),
subscription_paid AS (
    UPDATE user_subscriptions AS s
    SET amount_used = greatest(0, s.amount_used - o.refunded),
        updated_at = setting.now_s
    FROM subscription_owed AS o
    CROSS JOIN setting
    -- Several supplements may overdraw together what each of them fits into: then a row is missing here.
    WHERE s.id = o.subscription_id
        AND (o.refunded >= 0 OR s.amount_total = 0 OR s.amount_used - o.refunded <= s.amount_total)
    RETURNING s.id
),
channel_lowered AS (
    UPDATE channels AS c
    SET used_quota = coalesce(c.used_quota, 0) - o.refunded
    FROM (
        SELECT b.channel_id, sum(b.refunded)::bigint AS refunded
        FROM booked AS b
        WHERE b.refunded <> 0 AND (b.task_pk IN (SELECT j.pk FROM judged AS j WHERE j.is_forks)) IS NOT TRUE
        GROUP BY b.channel_id
    ) AS o
    WHERE c.id = o.channel_id
),
line AS MATERIALIZED (
    SELECT
        b.task_pk,
        b.user_id,
        setting.now_s AS created_at,
        CASE WHEN b.refunded > 0 THEN 6 ELSE 2 END::bigint AS type,
        CASE b.outcome
            WHEN 'FAILURE' THEN ''
            ELSE format('task settled: tokens=%s+%s', b.prompt_tokens, b.completion_tokens)
        END AS content,
        coalesce(u.username, '') AS username,
        coalesce(k.name, '') AS token_name,
        b.model AS model_name,
        abs(b.refunded) AS quota,
        b.prompt_tokens,
        b.completion_tokens,
        b.channel_id,
        coalesce(b.token_id, 0) AS token_id,
        coalesce(t."group", '')::text AS "group",
        (
            ratios.kept || jsonb_build_object(
                'task_id', b.task_id, 'task_pk', b.task_pk, 'is_task', true, 'pre_consumed_quota', b.reserved,
                'actual_quota', b.charged, 'reason', CASE b.outcome WHEN 'FAILURE' THEN b.fail_reason ELSE b.rule END
            )
        )::text AS other,
        -- At most 59 of its 64 characters, and the same however often it is delivered.
        concat('poller-', replace($15::uuid::text, '-', ''), '-', b.task_pk) AS request_id
    FROM booked AS b
    JOIN tasks AS t ON t.id = b.task_pk
    LEFT JOIN users AS u ON u.id = b.user_id
    LEFT JOIN tokens AS k ON k.id = b.token_id
    CROSS JOIN setting
    CROSS JOIN LATERAL json_to_record(
        CASE WHEN json_typeof(t.private_data::json) = 'object' THEN t.private_data::json ELSE '{}'::json END
    ) AS p (billing_context jsonb)
    CROSS JOIN LATERAL (
        SELECT
            CASE
                WHEN jsonb_typeof(p.billing_context) = 'object' THEN
                    jsonb_strip_nulls(jsonb_build_object(
                        'model_price', p.billing_context -> 'model_price',
                        'model_ratio', p.billing_context -> 'model_ratio',
                        'group_ratio', p.billing_context -> 'group_ratio'
                    ))
                ELSE '{}'::jsonb
            END
            || CASE
                WHEN jsonb_typeof(p.billing_context -> 'other_ratios') = 'object'
                    THEN p.billing_context -> 'other_ratios'
                ELSE '{}'::jsonb
            END AS kept
    ) AS ratios
    WHERE b.refunded > 0 OR (b.refunded < 0 AND setting.logs_consumption)
),
logged AS (
    INSERT INTO logs (
        user_id, created_at, type, content, username, token_name, model_name, quota, prompt_tokens, completion_tokens,
        channel_id, token_id, "group", other, request_id
    )
    SELECT
        line.user_id, line.created_at, line.type, line.content, line.username, line.token_name, line.model_name,
        line.quota, line.prompt_tokens, line.completion_tokens, line.channel_id, line.token_id, line."group",
        line.other, line.request_id
    FROM line
    WHERE NOT $18::boolean
    ORDER BY line.task_pk
),
posted AS (
    INSERT INTO poller.outbox (kind, task_pk, payload)
    SELECT 'log', line.task_pk, to_jsonb(line) FROM line WHERE $18::boolean
    UNION ALL
    SELECT 'user_cache', owed.task_pk, jsonb_build_object('user_id', owed.user_id, 'delta', owed.wallet)
    FROM owed
    WHERE $19::boolean AND owed.wallet <> 0
    UNION ALL
    SELECT 'token_cache', o.task_pk, jsonb_build_object('token_id', o.token_id, 'delta', o.refunded)
    FROM token_owed AS o
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
            WHEN (SELECT count(*) FROM token_paid) <> (SELECT count(*) FROM token_owed) THEN 'token_row'
            WHEN (SELECT count(*) FROM subscription_paid) <> (SELECT count(*) FROM subscription_owed)
                THEN 'subscription_row'
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
