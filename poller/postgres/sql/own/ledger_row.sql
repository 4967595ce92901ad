-- ledger_row: how one task was settled.
-- $1 bigint pk   locks: none   returns: one row, or none: we did not settle it
SELECT
    l.task_pk, l.task_id, l.user_id, l.channel_id, l.token_id, l.subscription_id, l.purse, l.model, l.outcome, l.rule,
    l.reserved, l.charged, l.refunded, l.price_source, l.prompt_tokens, l.completion_tokens, l.fail_reason, l.evidence,
    l.replica, extract(epoch FROM l.settled_at)::float8 AS settled_at_s
FROM poller.ledger AS l
WHERE l.task_pk = $1::bigint
