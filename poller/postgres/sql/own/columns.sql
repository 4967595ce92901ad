-- columns: what the gateway's tables look like; from the catalogue, which tells also what the role may not read.
-- $1 text[] table names   locks: none
-- returns: one row a column (table_name text, column_name text, type text), found on the search_path
SELECT
    wanted.name AS table_name,
    attribute.attname::text AS column_name,
    format_type(attribute.atttypid, NULL) AS type
FROM unnest($1::text[]) AS wanted (name)
JOIN pg_attribute AS attribute ON attribute.attrelid = to_regclass(quote_ident(wanted.name))
WHERE attribute.attnum > 0 AND NOT attribute.attisdropped
ORDER BY wanted.name, attribute.attnum
