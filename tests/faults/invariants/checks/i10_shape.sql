-- A settled task's row says what its ledger row says: outcome, 100%, amounts, times.
SELECT id, coalesce(says, 'open') AS now, outcome AS want
FROM inv.shape
WHERE says IS DISTINCT FROM outcome OR is_right IS NOT TRUE
