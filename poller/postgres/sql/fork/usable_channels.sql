-- usable_channels: how many channels of these types could be asked: with an address and a key.
-- $1 bigint[] channel types   locks: none   returns: one row (usable bigint)
SELECT count(*) AS usable
FROM channels
WHERE type = ANY($1::bigint[]) AND btrim(coalesce(base_url, '')) <> '' AND btrim(coalesce(key, '')) <> ''
