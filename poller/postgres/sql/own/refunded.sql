-- refunded: what was given back for failed tasks of one channel within the last hour, on upstream's word or its silence.
-- $1 bigint channel
-- locks: none   returns: one row (refunded bigint)
--
-- What a person gave back by hand is not upstream's doing. The rules are literals, as in the index that this reads.
SELECT coalesce(sum(l.refunded), 0)::bigint AS refunded
FROM poller.ledger AS l
WHERE l.channel_id = $1::bigint
    AND l.settled_at > now() - interval '1 hour'
    AND l.rule IN ('failed_word', 'not_found_confirmed', 'expired')
