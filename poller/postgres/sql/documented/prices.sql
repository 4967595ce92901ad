-- prices: what a model costs and what a group pays, numbers as text so that no digit is lost.
-- no parameters
-- locks: none
-- returns: kind 'ability', model, channel type, {"ratio", "fixed_quota"}; kind 'group_ratio', group, '', ratio
SELECT
    'ability'::text AS kind, a.model_name::text AS name, a.channel_type::text AS scope,
    json_build_object('ratio', a.ratio, 'fixed_quota', a.fixed_quota)::text AS value
FROM abilities AS a
UNION ALL
SELECT 'group_ratio', g.group_name::text, '', g.ratio::text
FROM group_ratio AS g
WHERE g.ratio IS NOT NULL
