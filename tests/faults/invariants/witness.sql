-- witness: triggers that write down every change with the id of its transaction, and what the counters were before.
-- Runs once on a test database, after its seed and before any daemon. Sessions of ours are named 'poller/…'.
CREATE SCHEMA inv;

-- What the gateway and people do on purpose, each entry in the transaction of the deed: a counter such as 'users.quota'
-- moved by delta, or 'task.finalized', 'task.deleted', 'user.deleted'.
CREATE TABLE inv.operator (
    seq bigserial PRIMARY KEY, what text NOT NULL, row_id bigint NOT NULL, delta bigint NOT NULL DEFAULT 0,
    xid xid8 NOT NULL DEFAULT pg_current_xact_id()
);
CREATE TABLE inv.rule (name text PRIMARY KEY);
CREATE TABLE inv.hist (
    seq bigserial PRIMARY KEY, op text NOT NULL, task_pk bigint NOT NULL, platform text, old_status text, new_status text,
    has_new_identity boolean NOT NULL DEFAULT false,
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(), app text NOT NULL DEFAULT current_setting('application_name')
);
CREATE TABLE inv.money (
    seq bigserial PRIMARY KEY, tbl text NOT NULL, col text NOT NULL, row_id bigint NOT NULL, delta numeric NOT NULL,
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(), app text NOT NULL DEFAULT current_setting('application_name')
);
CREATE TABLE inv.booked (
    seq bigserial PRIMARY KEY, op text NOT NULL, task_pk bigint NOT NULL,
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(), app text NOT NULL DEFAULT current_setting('application_name')
);
CREATE TABLE inv.logged (
    log_id bigint PRIMARY KEY,
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(), app text NOT NULL DEFAULT current_setting('application_name')
);
-- What was left in the outbox. is_doubted: it was claimed again after a claim that ended without a word. is_late: it left
-- the outbox when every cached balance was younger than it.
CREATE TABLE inv.posted (
    id bigint PRIMARY KEY, kind text NOT NULL, payload jsonb NOT NULL,
    is_doubted boolean NOT NULL DEFAULT false, is_late boolean NOT NULL DEFAULT false
);
-- What arrived: lines in the other log database, and moves of cached balances as Redis itself wrote them down.
CREATE TABLE inv.elsewhere (task_pk bigint, user_id bigint NOT NULL, amount numeric);
CREATE TABLE inv.moved (kind text NOT NULL, row_id bigint NOT NULL, delta bigint NOT NULL);
CREATE FUNCTION inv.is_elsewhere() RETURNS boolean LANGUAGE sql AS
$$ SELECT EXISTS (SELECT FROM inv.rule WHERE name IN ('logs', 'away')) $$;
CREATE TABLE inv.watched (tbl text NOT NULL, col text NOT NULL, PRIMARY KEY (tbl, col));
CREATE TABLE inv.start (tbl text NOT NULL, col text NOT NULL, row_id bigint NOT NULL, value numeric NOT NULL);
CREATE TABLE inv.untouched (tbl text NOT NULL, row_id bigint NOT NULL, digest text NOT NULL);

CREATE FUNCTION inv.t_task() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE identity text[] := ARRAY['task_id', 'user_id', 'channel_id', 'platform', 'action', 'submit_time', 'created_at',
                                 'private_data', 'properties'];
BEGIN
    IF TG_OP = 'DELETE' THEN
        INSERT INTO inv.hist (op, task_pk, platform, old_status) VALUES ('D', OLD.id, OLD.platform, OLD.status);
        RETURN OLD;
    ELSIF TG_OP = 'INSERT' THEN
        INSERT INTO inv.hist (op, task_pk, platform, new_status) VALUES ('I', NEW.id, NEW.platform, NEW.status);
        RETURN NEW;
    END IF;
    INSERT INTO inv.hist (op, task_pk, platform, old_status, new_status, has_new_identity)
    SELECT 'U', NEW.id, OLD.platform, OLD.status, NEW.status,
           EXISTS (SELECT FROM unnest(identity) AS name
                   WHERE (to_jsonb(OLD) ->> name) IS DISTINCT FROM (to_jsonb(NEW) ->> name));
    RETURN NEW;
END $$;
CREATE TRIGGER inv_task AFTER INSERT OR UPDATE OR DELETE ON tasks FOR EACH ROW EXECUTE FUNCTION inv.t_task();

CREATE FUNCTION inv.t_money() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE name text; moved numeric;
BEGIN
    FOREACH name IN ARRAY TG_ARGV LOOP
        moved := coalesce((to_jsonb(NEW) ->> name)::numeric, 0) - coalesce((to_jsonb(OLD) ->> name)::numeric, 0);
        IF moved <> 0 THEN
            INSERT INTO inv.money (tbl, col, row_id, delta) VALUES (TG_TABLE_NAME, name, NEW.id, moved);
        END IF;
    END LOOP;
    RETURN NEW;
END $$;

CREATE FUNCTION inv.t_log() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO inv.logged (log_id) VALUES (NEW.id); RETURN NEW; END $$;
CREATE TRIGGER inv_log AFTER INSERT ON logs FOR EACH ROW EXECUTE FUNCTION inv.t_log();

CREATE FUNCTION inv.t_ledger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO inv.booked (op, task_pk) VALUES (left(TG_OP, 1), CASE TG_OP WHEN 'DELETE' THEN OLD.task_pk ELSE NEW.task_pk END);
    RETURN NULL;
END $$;
CREATE TRIGGER inv_ledger AFTER INSERT OR UPDATE OR DELETE ON poller.ledger FOR EACH ROW EXECUTE FUNCTION inv.t_ledger();

CREATE FUNCTION inv.t_outbox() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO inv.posted (id, kind, payload) VALUES (NEW.id, NEW.kind, NEW.payload);
    ELSIF TG_OP = 'DELETE' THEN
        UPDATE inv.posted SET is_late = true WHERE id = OLD.id AND clock_timestamp() - OLD.created_at > interval '59 s';
    ELSIF NEW.tries > OLD.tries AND OLD.tries > 0 AND OLD.last_error = '' THEN
        UPDATE inv.posted SET is_doubted = true WHERE id = OLD.id;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER inv_outbox AFTER INSERT OR UPDATE OR DELETE ON poller.outbox FOR EACH ROW EXECUTE FUNCTION inv.t_outbox();

-- Entries of cached balances, each with what it would move.
CREATE VIEW inv.moves AS
SELECT p.id, p.kind, coalesce(p.payload ->> 'user_id', p.payload ->> 'token_id')::bigint AS row_id,
       (p.payload ->> 'delta')::bigint AS delta, p.is_doubted OR p.is_late AS may_be_missed
FROM inv.posted AS p WHERE p.kind IN ('user_cache', 'token_cache');

-- Watch some counters of a table, and remember what they are now.
CREATE FUNCTION inv.watch(tbl text, VARIADIC cols text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY cols LOOP
        INSERT INTO inv.watched VALUES (tbl, name);
        EXECUTE format('INSERT INTO inv.start SELECT %L, %L, id, coalesce(%I, 0) FROM %I', tbl, name, name, tbl);
    END LOOP;
    EXECUTE format('CREATE TRIGGER inv_money AFTER UPDATE ON %I FOR EACH ROW EXECUTE FUNCTION inv.t_money(%s)', tbl,
                   (SELECT string_agg(quote_literal(each), ', ') FROM unnest(cols) AS each));
END $$;

-- What the watched counters are now.
CREATE FUNCTION inv.counters() RETURNS TABLE (tbl text, col text, row_id bigint, value numeric) LANGUAGE plpgsql AS $$
DECLARE each inv.watched;
BEGIN
    FOR each IN SELECT * FROM inv.watched LOOP
        RETURN QUERY EXECUTE format('SELECT %L::text, %L::text, id::bigint, coalesce(%I, 0)::numeric FROM %I',
                                    each.tbl, each.col, each.col, each.tbl);
    END LOOP;
END $$;

-- The rows of users, tokens, channels and of other platforms' tasks without what may change in them.
CREATE FUNCTION inv.still() RETURNS TABLE (tbl text, row_id bigint, digest text) LANGUAGE sql AS $$
    SELECT 'users', id::bigint, md5((to_jsonb(users) - ARRAY['quota', 'used_quota', 'request_count'])::text) FROM users
    UNION ALL
    SELECT 'tokens', id, md5((to_jsonb(tokens) - ARRAY['remain_quota', 'used_quota', 'accessed_time'])::text) FROM tokens
    UNION ALL
    SELECT 'channels', id, md5((to_jsonb(channels) - ARRAY['used_quota', 'inv_spare'])::text) FROM channels
    UNION ALL
    SELECT 'tasks', id, md5(to_jsonb(tasks)::text) FROM tasks WHERE platform <> 'custompass'
$$;
INSERT INTO inv.untouched SELECT * FROM inv.still();
