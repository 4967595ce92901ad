-- outbox_due: whether anything of a kind waits to be handed over.
-- $1 text kind   locks: none   returns: one row (is_due)
SELECT EXISTS (SELECT FROM poller.outbox AS o WHERE o.kind = $1::text AND o.due_at <= now()) AS is_due
