-- outbox_claim: take entries that are due, oldest first, for a while; rows that another replica is taking are left to it.
-- $1 text kind   $2 bigint how many at most   $3 float8 seconds   $4 bigint floor (or NULL), the lowest of which is kept
--   with each entry
-- locks: the entries, until the statement ends
-- returns: the entries; age_s in seconds; is_in_doubt: an earlier claim of it ended without a word
WITH due AS MATERIALIZED (
    SELECT o.id, o.tries > 0 AND o.last_error = '' AS is_in_doubt
    FROM poller.outbox AS o
    -- As in outbox_due.
    WHERE o.kind = $1::text AND (o.due_at <= now() OR o.due_at > now() + interval '2 hours')
    ORDER BY o.id
    LIMIT $2::bigint
    FOR UPDATE SKIP LOCKED
)
UPDATE poller.outbox AS o
SET tries = o.tries + 1,
    -- Empty while somebody has it: so a claim that ends without a word can be told from a try that failed.
    last_error = '',
    due_at = now() + make_interval(secs => $3::float8),
    payload = CASE
        WHEN $4::bigint IS NULL THEN o.payload
        -- It only rises, unless the other side was restored from a backup or exchanged: then all is added anew there.
        ELSE o.payload || jsonb_build_object('floor', least((o.payload ->> 'floor')::bigint, $4::bigint))
    END
FROM due
WHERE o.id = due.id
RETURNING o.id, o.task_pk, o.payload::text AS payload, extract(epoch FROM now() - o.created_at)::float8 AS age_s, due.is_in_doubt
