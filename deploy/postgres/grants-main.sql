-- What the daemon's role needs in the database of a gateway of profile main, and nothing else.
--
-- Run it with psql as the owner of the tables, after 'poller migrate' (which is the owner's too):
--
--     CREATE ROLE poller LOGIN PASSWORD '...';
--     psql -v role=poller -f grants-main.sql "$OWNERS_DSN"
--
-- -v role=NAME: the daemon's role, default poller. -v gateway=SCHEMA: where the gateway's tables are, default public.
-- Doing it twice is harmless; after an upgrade of the gateway or of the daemon, do it again.
-- Before PostgreSQL 15 everybody may make tables in schema public: REVOKE CREATE ON SCHEMA public FROM PUBLIC.
\set ON_ERROR_STOP on
\if :{?role}
\else
    \set role poller
\endif
\if :{?gateway}
\else
    \set gateway public
\endif

BEGIN;
SET LOCAL search_path = :"gateway";
GRANT CONNECT ON DATABASE :"DBNAME" TO :"role";
GRANT USAGE ON SCHEMA :"gateway" TO :"role";

-- == the gateway's tables ==
GRANT
    SELECT (
        id, created_at, updated_at, task_id, platform, user_id, "group", channel_id, quota, action, status, fail_reason,
        submit_time, start_time, finish_time, progress, properties, private_data, data
    ),
    UPDATE (status, progress, quota, start_time, finish_time, fail_reason, data, updated_at)
ON tasks TO :"role";
GRANT SELECT (id, username, quota, used_quota, "group"), UPDATE (quota, used_quota) ON users TO :"role";
GRANT
    SELECT (id, user_id, name, remain_quota, used_quota),
    UPDATE (remain_quota, used_quota, accessed_time)
ON tokens TO :"role";
-- Optional: where REDIS_CONN_STRING is set, the cached tokens are found by their keys.
-- GRANT SELECT (key) ON tokens TO :"role";
GRANT
    SELECT (id, user_id, amount_total, amount_used),
    UPDATE (amount_used, updated_at)
ON user_subscriptions TO :"role";
GRANT SELECT (id, type, name, key, base_url, used_quota), UPDATE (used_quota) ON channels TO :"role";
-- Columns that not every version has.
SELECT format('GRANT SELECT (%I) ON channels TO %I', attname, :'role')
FROM pg_attribute
WHERE attrelid = 'channels'::regclass AND NOT attisdropped
    AND attname IN ('custompass_status_mapping', 'other', 'setting', 'settings', 'channel_info')
\gexec

-- Prices. The table holds other secrets of the gateway too (mail, payment): see the end of this file.
GRANT SELECT (key, value) ON options TO :"role";

-- Where logs live in another database (LOG_SQL_DSN): there, to a role of that database, with what is optional.
GRANT
    SELECT (request_id),
    INSERT (
        user_id, created_at, type, content, username, token_name, model_name, quota, prompt_tokens, completion_tokens,
        channel_id, token_id, "group", other, request_id
    )
ON logs TO :"role";
-- Optional: for logs in another database, to find again what was added before an answer was lost.
-- GRANT SELECT (id) ON logs TO :"role";
-- Optional: for 'poller reconcile', where this role runs it; what users were told of their refunds is in there.
-- GRANT SELECT (user_id, created_at, type, quota, content, other) ON logs TO :"role";
SELECT format('GRANT USAGE ON SEQUENCE %s TO %I', pg_get_serial_sequence('logs', 'id'), :'role')
WHERE pg_get_serial_sequence('logs', 'id') IS NOT NULL
\gexec

-- Who the server is (identity.sql) everybody may ask, unless that was revoked: then it is worked with unrecognised.
-- GRANT EXECUTE ON FUNCTION pg_control_system(), pg_current_wal_lsn(), pg_walfile_name(pg_lsn) TO :"role";

-- == schema poller ==
GRANT USAGE ON SCHEMA poller TO :"role";
GRANT SELECT ON poller.migration TO :"role";
GRANT SELECT, UPDATE (is_paused, triggered_at, ledger_pk, ledger_at, gateway_schema) ON poller.control TO :"role";
GRANT SELECT, INSERT, UPDATE (version, seen_until, has_left), DELETE ON poller.replica TO :"role";
GRANT
    SELECT,
    INSERT,
    UPDATE (
        has_work, holder, lease_until, is_paused, pause_reason, triggered_at, breaker, breaker_until, breaker_failures,
        concurrency, pass_started_at, pass_ended_at, pass_counts
    )
ON poller.lane TO :"role";
-- Rows are added and never changed: what was settled stays on record. The owner alone may set a row aside
-- ('poller tasks requeue --set-ledger-aside').
GRANT SELECT, INSERT ON poller.ledger TO :"role";
GRANT SELECT, INSERT ON poller.operator_action TO :"role";
GRANT USAGE ON SEQUENCE poller.operator_action_id_seq TO :"role";
GRANT SELECT, INSERT, UPDATE, DELETE ON poller.watch TO :"role";
GRANT SELECT, INSERT, UPDATE (payload, due_at, tries, last_error), DELETE ON poller.outbox TO :"role";
GRANT USAGE ON SEQUENCE poller.outbox_id_seq TO :"role";
GRANT SELECT, INSERT, UPDATE (seen_count, last_seen_at, example_task) ON poller.unknown_status TO :"role";

COMMIT;

-- Optional: of the options only those that the daemon reads. The owner of the table is not affected; any other role
-- that reads it needs a policy of its own, so think of reports and backups first.
--
-- ALTER TABLE options ENABLE ROW LEVEL SECURITY;
-- CREATE POLICY poller_prices ON options FOR SELECT TO :"role" USING (
--     key IN (
--         'ModelRatio', 'CompletionRatio', 'ModelPrice', 'GroupRatio', 'GroupGroupRatio', 'SelfUseModeEnabled',
--         'group_ratio_setting.group_ratio', 'group_ratio_setting.group_group_ratio', 'LogConsumeEnabled',
--         'DisplayInCurrencyEnabled', 'QuotaPerUnit'
--     )
-- );
