-- What the ledger gave back is what left the reservations, in one sum.
SELECT 0::bigint AS id, got::text AS now, want::text AS want
FROM (SELECT (SELECT coalesce(sum(refunded), 0) FROM poller.ledger) AS got,
             (SELECT coalesce(sum(t.reserved - t.charged), 0) FROM inv.truth AS t JOIN poller.ledger AS l USING (task_pk)) AS want) AS sums
WHERE got <> want
