-- last: where a pass over one channel ends. Tasks submitted later wait for the next pass: behind a busy gateway a pass
-- that took them in would never come back to the front.
-- $1 bigint channel   locks: none   returns: one row: the last pk of the active tasks, NULL when there is none
SELECT max(t.id)::bigint AS pk
FROM tasks AS t
WHERE t.channel_id = $1::bigint AND t.platform = 'custompass' AND (t.status IS NULL OR t.status NOT IN ('SUCCESS', 'FAILURE'))
