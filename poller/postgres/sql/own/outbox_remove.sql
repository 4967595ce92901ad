-- outbox_remove: what was handed over is forgotten.
-- $1 bigint[] ids   locks: the entries, until the statement ends   returns: nothing
DELETE FROM poller.outbox AS o WHERE o.id = ANY($1::bigint[])
