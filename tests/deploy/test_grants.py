"""The GRANT files: with exactly these rights the daemon does all of its work, and can do nothing else."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import asyncpg
import pytest

from poller.demo.embedded import Server
from poller.demo.fates import Lives
from poller.demo.simulator import Simulator
from poller.postgres.statements import PROFILES, Statement, load, load_own
from tests.cli.conftest import Run
from tests.cli.conftest import poller as poller  # the fixture
from tests.cli.test_commands import in_thread
from tests.conftest import MakeDatabase
from tests.e2e.harness import TERM, Daemon, assert_money_is_right, ending, fetchval, seeded, settled, upstream
from tests.postgres.gateway import Gateway, open_store

GRANTS = Path(__file__).parents[2] / "deploy" / "postgres"
OWNERS = {"index", "drop_index", "record_migration", "set_aside"}
"""Statements of 'poller migrate' and of setting ledger rows aside, which the owner does."""
OPTIONAL = {"token_keys", "add_logs", "logs_floor"}
"""Statements that need a right which the file has as a comment, or run in another database; reconcile's too."""
FETCHES = {"next_owed", "next_refunds"}
"""Statements that read from a cursor: the right was judged when that was declared."""
_numbers = itertools.count(1)


@pytest.fixture
async def role(pg_server: Server) -> AsyncIterator[str]:
    """A role that may log in and no more. Must be asked for before the database, which holds its rights."""
    name = f'poller "{os.getpid()}_{next(_numbers)}'
    connection = await asyncpg.connect(pg_server.dsn())
    quoted = quote(name)
    await connection.execute(f"CREATE ROLE {quoted} LOGIN")
    yield name
    await connection.execute(f"DROP ROLE {quoted}")
    await connection.close()


def quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def apply(pg_server: Server, dsn: str, role: str, script: str, **variables: str) -> None:
    """Run a GRANT file as a DBA would."""
    found = pg_server.binaries / "psql"
    psql = str(found) if found.exists() else shutil.which("psql")
    if psql is None:
        pytest.skip("no psql here")
    options = [part for name, value in {"role": role, **variables}.items() for part in ("-v", f"{name}={value}")]
    done = subprocess.run(
        [psql, "-X", "-q", *options, "-f", "-", dsn],
        input=script,
        text=True,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


def file(profile: str) -> str:
    return (GRANTS / f"grants-{profile}.sql").read_text()


def as_role(dsn: str, role: str) -> str:
    from urllib.parse import quote as escaped

    return dsn.replace("postgres@", f"{escaped(role)}@")


def statements_of_the_daemon(profile: str) -> list[Statement]:
    return [each for each in load(profile).values() if each.name not in OWNERS | FETCHES and not is_optional(each)]


def is_optional(statement: Statement) -> bool:
    return statement.name in OPTIONAL or statement.name.startswith("reconcile_")


# -- with these rights everything works ------------------------------------------------------------------------------


async def test_with_these_rights_the_whole_daemon_works(
    pg_server: Server, role: str, make_database: MakeDatabase, profile_name: str, tmp_path: Path
):
    tasks = 300
    simulator = Simulator(lives=Lives(seed=5, shortest_s=0.0, typical_s=0.01, longest_s=0.05))
    with anyio.fail_after(120):
        dsn = await make_database(profile_name)
        apply(pg_server, dsn, role, file(profile_name))
        limited = as_role(dsn, role)
        async with upstream(simulator) as url:
            await seeded(dsn, profile_name, tasks, url, simulator)
            once = Daemon(limited, tmp_path / "once.log", {}, ("run", "--once"))
            with ending(once):
                assert await once.ended() == 0, once.said()
            assert await settled(dsn) == tasks, once.said()
            daemon = Daemon(limited, tmp_path / "run.log", {"LOG_LEVEL": "debug"})
            with ending(daemon):
                while (await daemon.get("/startupz"))[0] != 200:
                    await anyio.sleep(0.05)
                assert (await daemon.get("/readyz"))[0] == 200
                await gauges_are_fresh(daemon)
                daemon.signal(TERM)
                assert await daemon.ended() == 0
            for log in (once.said(), daemon.said()):
                assert "loop_failed" not in log
                assert "[ERROR]" not in log
    await assert_money_is_right(dsn, profile_name)
    assert await fetchval(dsn, "SELECT count(DISTINCT replica) FROM poller.ledger") == 1


async def gauges_are_fresh(daemon: Daemon) -> None:
    """Wait until what is watched beside the lanes was looked at: the pool is told of last."""
    while 'custompass_db_pool_connections{state="open"}' not in (await daemon.get("/metrics"))[1]:
        await anyio.sleep(0.05)


async def test_with_these_rights_a_person_can_do_their_work(
    pg_server: Server, role: str, make_database: MakeDatabase, open_database, profile_name: str, poller: Run
):
    with anyio.fail_after(120):
        dsn = await make_database(profile_name)
        apply(pg_server, dsn, role, file(profile_name))
        gateway = Gateway(profile_name, dsn, await asyncpg.connect(dsn))
        user, channel = await gateway.user(), await gateway.channel()
        for quota in (450, 30):
            await gateway.task(user, channel, quota)
        store = await open_store(await open_database(dsn), gateway)
        tasks = (await store.page(channel, 0, 10)).tasks
        await store.quarantine([(task, "deadline_hold", "") for task in tasks])
        for command in (
            ("status",),
            ("tasks", "list"),
            ("tasks", "list", "--quarantined"),
            ("task", "job-1"),
            ("tasks", "requeue", "job-1"),
            ("tasks", "resolve", "job-2", "--refund", "--reason", "ticket 7"),
            ("pause",),
            ("resume",),
            ("pause", str(channel)),
            ("resume", str(channel)),
            ("check",),
        ):
            ran = await in_thread(poller, *command, SQL_DSN=as_role(dsn, role))
            assert ran.code == 0, ran
        assert await gateway.balance(user) == (1030, 5000 if profile_name == "fork" else 4970)
        who = await gateway.connection.fetchval("SELECT who FROM poller.operator_action ORDER BY id LIMIT 1")
        assert who.endswith(f" as {role}")
        await gateway.connection.close()


async def refused(connection: asyncpg.Connection, statement: Statement, role: str) -> bool:
    """Whether *role* may not run the statement: rights are judged when a plan is made ready, parameters or not."""
    attempt = connection.transaction()
    await attempt.start()
    try:
        await connection.execute(f"SET LOCAL ROLE {quote(role)}")
        query = re.sub(r"DECLARE \w+ NO SCROLL CURSOR FOR", "", statement.text)
        await connection.execute(f"EXPLAIN (GENERIC_PLAN) {query}")
    except asyncpg.InsufficientPrivilegeError:
        return True
    finally:
        await attempt.rollback()
    return False


async def test_every_statement_of_the_daemon_is_permitted(
    pg_server: Server, role: str, make_database: MakeDatabase, profile_name: str
):
    connection = await prepared(pg_server, role, await make_database(profile_name), profile_name)
    known = statements_of_the_daemon(profile_name)
    assert [each.name for each in known if await refused(connection, each, role)] == []
    await connection.close()


async def test_the_optional_rights_are_those_that_are_missing_for_the_rest(
    pg_server: Server, role: str, make_database: MakeDatabase, profile_name: str
):
    script = re.sub(r"^-- (?=GRANT )", "", file(profile_name), flags=re.MULTILINE)
    connection = await prepared(pg_server, role, await make_database(profile_name), profile_name, script)
    # Only main moves tokens.
    left_out = set() if profile_name == "main" else {"token_keys"}
    rest = [each for each in load(profile_name).values() if is_optional(each) and each.name not in left_out]
    assert len(rest) > 5
    assert [each.name for each in rest if await refused(connection, each, role)] == []
    await connection.close()


async def prepared(
    pg_server: Server, role: str, dsn: str, profile: str, script: str | None = None
) -> asyncpg.Connection:
    apply(pg_server, dsn, role, script or file(profile))
    connection = await asyncpg.connect(dsn)
    if connection.get_server_version().major < 16:
        await connection.close()
        pytest.skip("EXPLAIN (GENERIC_PLAN) came with PostgreSQL 16")
    return connection


# -- and nothing else ------------------------------------------------------------------------------------------------

RIGHTS = """
    SELECT n.nspname AS schema, c.relname AS table, NULL AS column, a.privilege_type AS right
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace CROSS JOIN aclexplode(c.relacl) a
    WHERE a.grantee = $1::text::regrole AND c.relkind = 'r'
    UNION ALL
    SELECT n.nspname, c.relname, t.attname, a.privilege_type
    FROM pg_attribute t JOIN pg_class c ON c.oid = t.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    CROSS JOIN aclexplode(t.attacl) a
    WHERE a.grantee = $1::text::regrole
"""


async def test_every_right_is_needed_by_some_statement(
    pg_server: Server, role: str, make_database: MakeDatabase, profile_name: str
):
    with anyio.fail_after(120):
        connection = await prepared(pg_server, role, await make_database(profile_name), profile_name)
        known = statements_of_the_daemon(profile_name)
        needless = []
        rights = await connection.fetch(RIGHTS, quote(role))
        assert len(rights) > 40
        for schema, table, column, right in rights:
            words = [word for word in (table, column) if word]
            using = [each for each in known if all(re.search(rf"\b{word}\b", each.text) for word in words)]
            attempt = connection.transaction()
            await attempt.start()
            what = f"{right} ({quote(column)})" if column else right
            await connection.execute(f"REVOKE {what} ON {schema}.{table} FROM {quote(role)}")
            for statement in using:
                if await refused(connection, statement, role):
                    break
            else:
                needless.append(f"{right} {schema}.{table} {column or ''}".strip())
            await attempt.rollback()
        assert needless == []
        await connection.close()


FORBIDDEN = [
    "DELETE FROM tasks",
    "TRUNCATE tasks",
    "INSERT INTO tasks (task_id) VALUES ('x')",
    "UPDATE tasks SET id = 1",
    "UPDATE tasks SET task_id = 'x'",
    "UPDATE tasks SET user_id = 1",
    "UPDATE tasks SET channel_id = 1",
    "UPDATE tasks SET platform = 'suno'",
    "UPDATE tasks SET action = 'm'",
    "UPDATE tasks SET created_at = created_at",
    "ALTER TABLE tasks ADD COLUMN x integer",
    "DROP TABLE tasks",
    "CREATE INDEX ON tasks (quota)",
    "SELECT * FROM users",
    "SELECT status FROM users",
    "UPDATE users SET \"group\" = 'vip'",
    "UPDATE users SET id = 1",
    "DELETE FROM users",
    "INSERT INTO users (username) VALUES ('x')",
    "SELECT key FROM tokens",
    "DELETE FROM tokens",
    "INSERT INTO tokens (user_id) VALUES (1)",
    "UPDATE channels SET key = 'x'",
    "UPDATE channels SET base_url = 'http://evil'",
    "DELETE FROM channels",
    "UPDATE logs SET quota = 0",
    "DELETE FROM logs",
    "SELECT * FROM logs",
    "UPDATE poller.ledger SET refunded = 0",
    "UPDATE poller.ledger SET outcome = outcome",
    "UPDATE poller.ledger SET task_pk = -1",
    "UPDATE poller.ledger SET set_aside_of = 1",
    "SELECT nextval('poller.ledger_aside')",
    "DELETE FROM poller.ledger",
    "TRUNCATE poller.ledger",
    "SELECT 1 FROM poller.ledger FOR UPDATE",
    "UPDATE poller.operator_action SET who = 'x'",
    "DELETE FROM poller.operator_action",
    "INSERT INTO poller.migration (version, name, sha256) VALUES (99, 'x', 'x')",
    "DELETE FROM poller.migration",
    "INSERT INTO poller.control DEFAULT VALUES",
    "DELETE FROM poller.control",
    "DELETE FROM poller.lane",
    "UPDATE poller.lane SET channel_id = 1",
    "CREATE TABLE poller.mine (x integer)",
    "CREATE TABLE public.mine (x integer)",
    "CREATE SCHEMA mine",
    "DROP SCHEMA poller CASCADE",
    "CREATE ROLE other",
    "COPY tasks (id) TO PROGRAM 'cat'",
    "SELECT pg_read_file('postgresql.conf')",
    "SELECT rolpassword FROM pg_authid",
]
OF_NEW_API = [
    "SELECT password FROM users",
    "SELECT access_token FROM users",
    "UPDATE users SET password = 'x'",
    "UPDATE users SET role = 100",
    "UPDATE users SET deleted_at = NULL",
    "UPDATE tasks SET submit_time = 1",
    "UPDATE tasks SET properties = NULL",
    "UPDATE options SET value = 'x'",
    "DELETE FROM options",
    "UPDATE tokens SET key = 'x'",
    "UPDATE tokens SET unlimited_quota = true",
]


async def test_everything_else_is_refused(pg_server: Server, role: str, make_database: MakeDatabase, profile_name: str):
    with anyio.fail_after(60):
        dsn = await make_database(profile_name)
        apply(pg_server, dsn, role, file(profile_name))
        connection = await asyncpg.connect(as_role(dsn, role))
        permitted = []
        for query in FORBIDDEN + (OF_NEW_API if profile_name != "documented" else ["UPDATE abilities SET ratio = 0"]):
            try:
                await connection.execute(query)
            except asyncpg.InsufficientPrivilegeError:
                continue
            permitted.append(query)
        assert permitted == []
        await connection.close()


async def test_upstream_keys_saved_with_tasks_cannot_be_changed(
    pg_server: Server, role: str, make_database: MakeDatabase
):
    dsn = await make_database("main")
    apply(pg_server, dsn, role, file("main"))
    connection = await asyncpg.connect(as_role(dsn, role))
    for query in ("UPDATE tasks SET private_data = NULL", "UPDATE user_subscriptions SET amount_total = 0"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(query)
    await connection.close()


# -- the files themselves --------------------------------------------------------------------------------------------


async def test_the_grants_can_be_given_twice_and_in_another_schema(
    pg_server: Server, role: str, make_database: MakeDatabase, open_database
):
    dsn = await make_database("fork")
    owner = await asyncpg.connect(dsn)
    await owner.execute("ALTER SCHEMA public RENAME TO gateway")
    for _ in range(2):
        apply(pg_server, dsn, role, file("fork"), gateway="gateway")
    database = await open_database(as_role(dsn, role) + "&search_path=gateway")
    assert await database.fetch(load("fork").discover) == []
    await owner.close()


@pytest.mark.parametrize("profile", ["fork", "main"])
async def test_the_optional_policy_leaves_the_prices_and_hides_the_rest(
    pg_server: Server, role: str, make_database: MakeDatabase, profile: str
):
    dsn = await make_database(profile)
    block = file(profile).partition("Optional: of the options")[2]
    lines = [line.removeprefix("-- ") for line in block.splitlines() if re.match("-- (ALTER|CREATE|    |\\);)", line)]
    apply(pg_server, dsn, role, file(profile) + "\n".join(lines))
    owner = await asyncpg.connect(dsn)
    known = set(re.findall(r"'([A-Z_a-z.]+)'", "\n".join(lines)))
    read = {
        name
        for statement in (load(profile).prices, load(profile).settle)
        for name in re.findall(r"'([A-Z][A-Za-z]+|group_ratio_setting\.\w+)'", statement.text)
        if not name.isupper() and f"'{name}'" in statement.text.partition("FROM options")[2]
    }
    assert read
    assert read <= known
    for name in (*known, "SMTPToken"):
        await owner.execute("INSERT INTO options (key, value) VALUES ($1, 'x')", name)
    limited = await asyncpg.connect(as_role(dsn, role))
    seen = {row["key"] for row in await limited.fetch("SELECT key FROM options")}
    assert seen == known
    await limited.close()
    await owner.close()


def test_our_own_tables_have_the_same_rights_in_every_profile():
    own = {file(profile).partition("-- == schema poller ==")[2].partition("COMMIT;")[0] for profile in PROFILES}
    assert len(own) == 1
    (text,) = own
    used = {table for each in load_own().values() for table in re.findall(r"\bpoller\.(\w+)", each.text)}
    assert {table for table in used if f"poller.{table} " not in text} == {"index"}, "a name of an advisory lock"


def test_keys_of_tokens_are_granted_only_where_the_reader_uncomments_it():
    assert "\n-- GRANT SELECT (key) ON tokens" in file("main")
    for profile in PROFILES:
        granted = "\n".join(line for line in file(profile).splitlines() if not line.startswith("--"))
        assert not re.search(r"key[^;]*ON tokens", granted)


async def test_a_role_without_the_right_to_migrate_says_what_to_do(
    pg_server: Server, role: str, make_database: MakeDatabase, poller: Run
):
    dsn = await make_database("main", migrated=False)
    ran = await in_thread(poller, "run", "--once", SQL_DSN=as_role(dsn, role))
    assert ran.code == 78
    assert "poller migrate --print" in ran.err


async def test_ledger_rows_are_set_aside_by_the_owner_alone(
    pg_server: Server, role: str, make_database: MakeDatabase, poller: Run
):
    dsn = await make_database("main")
    apply(pg_server, dsn, role, file("main"))
    gateway = Gateway("main", dsn, await asyncpg.connect(dsn))
    await gateway.task(await gateway.user(), await gateway.channel())
    command = ("tasks", "requeue", "--set-ledger-aside", "--yes", "job-1")
    ran = await in_thread(poller, *command, SQL_DSN=as_role(dsn, role))
    assert ran.code == 77
    assert "the owner of schema poller" in ran.err
    await gateway.connection.close()
