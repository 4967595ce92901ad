-- Everything else is as it was: names, keys, groups, statuses of users, tokens and channels; other platforms' tasks.
SELECT s.row_id AS id, s.tbl || ' changed' AS now, 'as before' AS want
FROM inv.untouched AS s JOIN inv.still() AS n USING (tbl, row_id)
WHERE s.digest <> n.digest
