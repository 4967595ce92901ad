-- next_owed: the next page of reconcile_owed, in the transaction that declared it.
-- no parameters   locks: none   returns: the columns of the cursor; no row at its end
FETCH FORWARD 5000 FROM owed
