-- backend_pid: which server process answers; another one than the connection was promised means a pooler in between.
-- no parameters   locks: none   returns: one row (pid integer, version integer)
SELECT pg_backend_pid() AS pid, current_setting('server_version_num')::integer AS version
