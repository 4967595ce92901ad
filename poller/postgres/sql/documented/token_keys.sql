-- token_keys: the keys that name tokens in the gateway's cache; settling moves no token of this gateway.
-- $1 bigint[] token ids   locks: none   returns: no row
SELECT ids.id::bigint AS id, ''::text AS key FROM unnest($1::bigint[]) AS ids (id) WHERE false
