-- trigger: every lane is due now; its holder, whoever that is, sees it at the next renewal.
-- no parameters   locks: control, then all lanes in channel order   returns: one row a lane (channel_id bigint)
WITH noted AS (
    UPDATE poller.control SET triggered_at = now()
),
every AS (
    SELECT lane.channel_id FROM poller.lane ORDER BY lane.channel_id FOR UPDATE
)
UPDATE poller.lane
SET triggered_at = now()
FROM every
WHERE lane.channel_id = every.channel_id
RETURNING lane.channel_id
