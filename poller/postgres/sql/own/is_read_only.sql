-- is_read_only: whether the server takes no writes from us, as a standby or because it is told to.
-- no parameters   locks: none   returns: one row (is_read_only boolean)
SELECT current_setting('transaction_read_only')::boolean AS is_read_only
