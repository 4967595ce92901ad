-- has_ledger: whether the daemon made its schema yet
SELECT to_regclass('poller.ledger') IS NOT NULL
