-- user_groups: the billing group of users, deleted ones included.
-- $1 bigint[] user ids
-- locks: none
-- returns: one row a user that exists
SELECT u.id::bigint AS user_id, coalesce(u."group", '')::text AS user_group
FROM users AS u
WHERE u.id = ANY($1::bigint[])
