-- leave: this replica is no part of the fleet any more; what it asked for before and the server does later takes no lane.
-- $1 text replica   locks: the replica, after a take of it that is under way   returns: nothing
INSERT INTO poller.replica AS replica (id, seen_until, has_left)
VALUES ($1::text, now(), true)
ON CONFLICT (id) DO UPDATE SET seen_until = now(), has_left = true
