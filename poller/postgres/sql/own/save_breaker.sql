-- save_breaker: what the lane's breaker and limits are, for the next holder and for the status page.
-- $1 bigint channel   $2 text replica   $3 text state   $4 float8 seconds it stays open, or NULL   $5 integer failures
-- $6 integer concurrency   locks: the lane   returns: nothing
UPDATE poller.lane
SET breaker = $3::text,
    breaker_until = now() + make_interval(secs => $4::float8),
    breaker_failures = $5::integer,
    concurrency = $6::integer
WHERE channel_id = $1::bigint AND holder = $2::text
    -- Nothing new is not written.
    AND (
        $4::float8 IS NOT NULL
        OR (breaker, breaker_failures, concurrency) IS DISTINCT FROM ($3::text, $5::integer, $6::integer)
    )
