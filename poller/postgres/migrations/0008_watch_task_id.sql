-- Whose notes these are: a key may be another task's by now, as after TRUNCATE tasks RESTART IDENTITY or a restore. NULL
-- in notes from before it was kept: they count as before.
ALTER TABLE poller.watch ADD COLUMN task_id text;
