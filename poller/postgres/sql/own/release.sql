-- release: give lanes back, so that others need not wait for the leases to run out.
-- $1 text replica   $2 bigint[] channels, NULL for all
-- locks: the lanes, in channel order   returns: one row a lane given back (channel_id bigint)
WITH held AS (
    SELECT lane.channel_id
    FROM poller.lane
    WHERE lane.holder = $1::text AND ($2::bigint[] IS NULL OR lane.channel_id = ANY ($2::bigint[]))
    ORDER BY lane.channel_id
    FOR UPDATE
)
UPDATE poller.lane
SET holder = NULL,
    lease_until = NULL
FROM held
WHERE lane.channel_id = held.channel_id
RETURNING lane.channel_id
