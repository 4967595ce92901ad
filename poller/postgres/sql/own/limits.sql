-- limits: time limits for the rest of the transaction, where a pooler forbids them on the session.
-- $1 text lock_timeout, $2 text statement_timeout, each in milliseconds, '0' for none   locks: none   returns: one row
SELECT set_config('lock_timeout', $1::text, true),
       set_config('statement_timeout', $2::text, true),
       set_config('idle_in_transaction_session_timeout', '30000', true)
