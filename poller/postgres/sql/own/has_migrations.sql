-- has_migrations: whether our schema was ever made here, and whether this role may make or change it.
-- no parameters   locks: none   returns: one row (is_there boolean, may_create boolean)
--
-- From the catalogue, not by to_regclass: that answers from a cache which may be as old as the transaction, and so
-- older than the lock under which migrate asks.
SELECT
    count(*) > 0 AS is_there,
    coalesce(
        bool_and(has_schema_privilege(n.oid, 'CREATE')), has_database_privilege(current_database(), 'CREATE')
    ) AS may_create
FROM pg_namespace AS n
JOIN pg_class AS c ON c.relnamespace = n.oid
WHERE n.nspname = 'poller' AND c.relname = 'migration'
