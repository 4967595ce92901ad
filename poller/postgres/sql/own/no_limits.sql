-- no_limits: lift the session's time limits, for work that waits long by nature; the session is closed afterwards.
-- no parameters   locks: none   returns: one row
SELECT set_config('lock_timeout', '0', false),
       set_config('statement_timeout', '0', false),
       set_config('idle_in_transaction_session_timeout', '0', false)
