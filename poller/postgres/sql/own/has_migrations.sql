-- has_migrations: whether our schema was ever made here, and whether this role may make or change it.
-- no parameters   locks: none   returns: one row (is_there boolean, may_create boolean)
SELECT
    to_regclass('poller.migration') IS NOT NULL AS is_there,
    CASE
        WHEN to_regclass('poller.migration') IS NULL THEN has_database_privilege(current_database(), 'CREATE')
        ELSE has_schema_privilege(to_regnamespace('poller')::oid, 'CREATE')
    END AS may_create
