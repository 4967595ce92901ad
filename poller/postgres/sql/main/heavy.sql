-- heavy: what a page left out of tasks whose saved request is long; asked for in small numbers.
-- $1 bigint[] pks
-- locks: none
-- returns: the JSON columns of those rows that still exist
SELECT t.id::bigint AS pk, t.properties::text AS properties, t.private_data::text AS private_data
FROM tasks AS t
WHERE t.id = ANY($1::bigint[]) AND t.platform = 'custompass'
