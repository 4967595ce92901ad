-- What a replica asked for before it left, and the server does only afterwards, shall take no lane any more: so its row
-- stays for a while.
ALTER TABLE poller.replica ADD COLUMN has_left boolean NOT NULL DEFAULT false;
