-- channels: rows of channels as they are; checking them is core.channels' business.
-- $1 bigint[] ids
-- locks: none
-- returns: the rows that exist, whatever their status: work that was accepted is asked about to its end
SELECT c.id, c.type, c.name, c.key, c.base_url, c.mapping, c.other, c.setting, c.settings, c.channel_info
FROM (
    -- Not every version has these columns. Where channels lacks one, its name below means this NULL.
    SELECT
        NULL::text AS custompass_status_mapping, NULL::text AS other, NULL::text AS setting, NULL::text AS settings,
        NULL::text AS channel_info
) AS absent
CROSS JOIN LATERAL (
    SELECT
        id::bigint AS id, coalesce(type, 0)::bigint AS type, coalesce(name, '')::text AS name, key::text AS key,
        base_url::text AS base_url, custompass_status_mapping::text AS mapping, other::text AS other,
        setting::text AS setting, settings::text AS settings, channel_info::text AS channel_info
    FROM channels
    WHERE id = ANY($1::bigint[])
) AS c
