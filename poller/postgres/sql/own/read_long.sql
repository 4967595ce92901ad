-- read_long: the rest of the transaction only reads, and may take its time.
-- no parameters   locks: none   returns: one row
SELECT
    set_config('transaction_read_only', 'on', true) AS transaction_read_only,
    set_config('statement_timeout', '0', true) AS statement_timeout,
    set_config('idle_in_transaction_session_timeout', '0', true) AS idle_timeout
