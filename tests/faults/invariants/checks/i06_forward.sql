-- Monotonic: our sessions never lead a task out of a final status, nor back to an earlier one.
SELECT task_pk AS id, new_status AS now, 'after ' || coalesce(old_status, 'NULL') AS want
FROM inv.hist
WHERE op = 'U' AND app LIKE 'poller%' AND new_status IS DISTINCT FROM old_status
    AND (inv.outcome(old_status) IS NOT NULL OR inv.rank(new_status) < inv.rank(old_status))
