-- outbox_put_back: what surely was not done is tried again, later with each try.
-- $1 bigint[] ids   $2 text why   $3 float8 seconds after the first try   $4 float8 seconds at most
-- locks: the entries, until the statement ends   returns: nothing
UPDATE poller.outbox AS o
SET last_error = $2::text,
    due_at = now() + make_interval(secs => least($4::float8, $3::float8 * power(2, least(greatest(o.tries, 1), 30) - 1)))
WHERE o.id = ANY($1::bigint[])
