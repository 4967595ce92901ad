-- Right amount: what was reserved at the start, and the price of what upstream really did.
SELECT l.task_pk AS id, format('%s %s of %s', l.outcome, l.charged, l.reserved) AS now,
       format('%s %s of %s', t.outcome, t.charged, t.reserved) AS want
FROM poller.ledger AS l LEFT JOIN inv.truth AS t USING (task_pk)
WHERE (l.outcome, l.charged, l.reserved, l.refunded) IS DISTINCT FROM (t.outcome, t.charged, t.reserved, t.reserved - t.charged)
