-- unknown_words: the inbox of status words that no list knows.
-- $1 bigint channel   $2 text[] words, ascending   $3 bigint[] how often   $4 text[] an id that was given the word
-- locks: the rows, in the order of the words
-- returns: the words written; an upstream that makes words up gets no more than 200 rows a channel
INSERT INTO poller.unknown_status AS u (channel_id, word, seen_count, example_task)
SELECT $1::bigint, n.word, n.seen_count, n.example_task
FROM unnest($2::text[], $3::bigint[], $4::text[]) WITH ORDINALITY AS n (word, seen_count, example_task, place)
WHERE n.place + (SELECT count(*) FROM poller.unknown_status AS have WHERE have.channel_id = $1::bigint) <= 200
    OR EXISTS (SELECT 1 FROM poller.unknown_status AS same WHERE same.channel_id = $1::bigint AND same.word = n.word)
ORDER BY n.place
ON CONFLICT (channel_id, word) DO UPDATE
    SET seen_count = u.seen_count + excluded.seen_count, last_seen_at = now(), example_task = excluded.example_task
RETURNING u.word
