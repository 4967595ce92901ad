-- outbox_due: whether anything of a kind waits to be handed over.
-- $1 text kind   locks: none   returns: one row (is_due)
SELECT EXISTS (
    SELECT
    FROM poller.outbox AS o
    -- Nothing waits for two hours: what seems to is from before the clock was set back.
    WHERE o.kind = $1::text AND (o.due_at <= now() OR o.due_at > now() + interval '2 hours')
) AS is_due
