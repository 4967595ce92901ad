-- The schema of the tasks that all this is about, as the first daemon found it; NULL: none has yet. See sql/own/home.sql.
ALTER TABLE poller.control ADD COLUMN gateway_schema text;
