-- db_now: the clock that everything is judged by.
-- no parameters   locks: none   returns: one row (now_s float8 epoch seconds)
SELECT extract(epoch FROM clock_timestamp())::float8 AS now_s
