-- prices: the options that a price may come from, as the gateway saved them.
-- no parameters
-- locks: none
-- returns: kind 'option', name of the option, an empty scope, its text
SELECT 'option'::text AS kind, o.key::text AS name, ''::text AS scope, o.value::text AS value
FROM options AS o
WHERE o.value IS NOT NULL
    AND o.key IN (
        'ModelRatio', 'CompletionRatio', 'ModelPrice', 'GroupRatio', 'GroupGroupRatio', 'SelfUseModeEnabled',
        -- The same maps under the names of newer versions.
        'group_ratio_setting.group_ratio', 'group_ratio_setting.group_group_ratio'
    )
