-- next_refunds: the next page of reconcile_refunds, in the transaction that declared it.
-- no parameters   locks: none   returns: the columns of the cursor; no row at its end
FETCH FORWARD 5000 FROM refunds
