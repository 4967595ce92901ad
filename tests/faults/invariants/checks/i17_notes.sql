-- No settled task waits for a person, and what the ledger gave back is what left the reservations, in one sum.
SELECT w.task_pk AS id, 'in quarantine: ' || w.reason AS now, 'settled' AS want
FROM poller.watch AS w JOIN poller.ledger AS l USING (task_pk)
-- A count of sightings may outlive its task: another replica noted it while we settled. It moves nothing.
WHERE w.quarantined_at IS NOT NULL
UNION ALL
SELECT 0, got::text, want::text
FROM (SELECT (SELECT coalesce(sum(refunded), 0) FROM poller.ledger) AS got,
             (SELECT coalesce(sum(t.reserved - t.charged), 0) FROM inv.truth AS t JOIN poller.ledger AS l USING (task_pk)) AS want) AS sums
WHERE got <> want
