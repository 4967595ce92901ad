-- identity: which server answers, and the timeline that it writes. Everybody may call these functions, unless revoked.
-- no parameters   locks: none   returns: one row (system bigint, timeline integer, NULL on a standby)
--
-- The timeline of pg_control_checkpoint() is that of the last checkpoint, after a promotion the old one for minutes.
SELECT
    system_identifier AS system,
    CASE
        WHEN NOT pg_is_in_recovery() THEN ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer
    END AS timeline
FROM pg_control_system()
