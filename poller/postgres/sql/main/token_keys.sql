-- token_keys: the keys that name tokens in the gateway's cache.
-- $1 bigint[] token ids   locks: none   returns: a row a token that still exists (id, key without padding)
SELECT tokens.id::bigint AS id, trim(coalesce(tokens.key, ''))::text AS key FROM tokens WHERE tokens.id = ANY($1::bigint[])
