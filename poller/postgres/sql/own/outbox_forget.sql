-- outbox_forget: entries that are too old to be of any use are done with.
-- $1 text[] kinds   $2 float8 seconds   locks: the entries, until the statement ends   returns: nothing
DELETE FROM poller.outbox AS o WHERE o.kind = ANY($1::text[]) AND o.created_at < now() - make_interval(secs => $2::float8)
