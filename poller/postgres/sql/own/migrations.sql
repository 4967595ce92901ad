-- migrations: what was applied here.
-- no parameters   locks: none   returns: one row a migration (version integer, name text, sha256 text), in order
SELECT version, name, sha256 FROM poller.migration ORDER BY version
