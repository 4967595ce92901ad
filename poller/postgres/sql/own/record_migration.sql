-- record_migration: this migration was applied, from a file with this checksum.
-- $1 integer version   $2 text name   $3 text sha256 of the file, in hex   locks: none   returns: nothing
INSERT INTO poller.migration (version, name, sha256) VALUES ($1::integer, $2::text, $3::text)
