-- replicas: the fleet.
-- no parameters   locks: none   returns: one row a replica that was seen within the last hour and has not left; times in epoch
-- seconds
SELECT
    replica.id,
    replica.version,
    extract(epoch FROM replica.started_at)::float8 AS started_at_s,
    replica.seen_until > now() AS is_live,
    (SELECT count(*) FROM poller.lane WHERE lane.holder = replica.id AND lane.lease_until > now())::integer AS lanes
FROM poller.replica
WHERE replica.seen_until > now() - interval '1 hour' AND NOT replica.has_left
ORDER BY replica.id
