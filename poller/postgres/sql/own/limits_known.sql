-- limits_known: limits and identity in one: behind a pooler each transaction may be on another server.
-- $1 text lock_timeout, $2 text statement_timeout, each in milliseconds, '0' for none   locks: none
-- returns: one row (system bigint, timeline integer, NULL on a standby)
SELECT
    system_identifier AS system,
    CASE
        WHEN NOT pg_is_in_recovery() THEN ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer
    END AS timeline,
    set_config('lock_timeout', $1::text, true),
    set_config('statement_timeout', $2::text, true),
    set_config('idle_in_transaction_session_timeout', '30000', true)
FROM pg_control_system()
