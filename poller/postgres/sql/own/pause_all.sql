-- pause_all: stop or start asking on all lanes; lanes that were paused one by one keep their own flag.
-- $1 boolean whether to pause   locks: control   returns: nothing
UPDATE poller.control SET is_paused = $1::boolean
