-- A settled task is in nobody's notes, and the amounts of the ledger are a sum that adds up to what left the reservations.
SELECT w.task_pk AS id, 'still noted: ' || w.reason AS now, 'forgotten' AS want
FROM poller.watch AS w JOIN poller.ledger AS l USING (task_pk)
UNION ALL
SELECT 0, got::text, want::text
FROM (SELECT (SELECT coalesce(sum(refunded), 0) FROM poller.ledger) AS got,
             (SELECT coalesce(sum(t.reserved - t.charged), 0) FROM inv.truth AS t JOIN poller.ledger AS l USING (task_pk)) AS want) AS sums
WHERE got <> want
