-- Atomic: a ledger row and its final status have one transaction id, and no final status of ours is without a ledger row.
SELECT b.task_pk AS id, 'ledger row without its status' AS now, '' AS want
FROM inv.booked AS b JOIN poller.ledger AS l USING (task_pk)
WHERE b.op = 'I' AND NOT EXISTS (
    SELECT FROM inv.hist AS h WHERE h.task_pk = b.task_pk AND h.xid = b.xid AND inv.outcome(h.new_status) = l.outcome)
UNION ALL
SELECT h.task_pk, 'status without a ledger row', ''
FROM inv.hist AS h
WHERE h.op = 'U' AND h.app LIKE 'poller%' AND inv.outcome(h.new_status) IS NOT NULL AND inv.outcome(h.old_status) IS NULL
    AND NOT EXISTS (SELECT FROM inv.booked AS b JOIN poller.ledger AS l USING (task_pk) WHERE b.task_pk = h.task_pk AND b.op = 'I' AND (b.xid = h.xid OR EXISTS (
        -- Restored after a whole-row save: booked in an earlier transaction of ours.
        SELECT FROM inv.hist AS first WHERE first.task_pk = h.task_pk AND first.xid = b.xid AND first.seq < h.seq)))
