"""Making our schema: once, twice, at once, by whom, and what to say when it does not fit."""

from __future__ import annotations

import shutil
import subprocess

import anyio
import asyncpg
import pytest

from poller.errors import Misconfigured, NotPermitted
from poller.postgres.migrate import Migrated, may_create, migrate, migrations, plan, verify
from poller.postgres.profile import detect
from poller.postgres.statements import Statement, load_own
from tests.postgres.eventually import eventually
from tests.postgres.proxy import other_pid

ALL = tuple(f"{migration.version:04d} {migration.name}" for migration in migrations())
INDEX = Statement("index", "SELECT pg_get_indexdef('poller_active_tasks'::regclass)")


async def alter(dsn: str, *scripts: str) -> None:
    connection = await asyncpg.connect(dsn)
    for script in scripts:
        await connection.execute(script)
    await connection.close()


def with_role(dsn: str, role: str) -> str:
    return dsn.replace("postgres@", f"{role}@")


@pytest.fixture
async def role(pg_server):
    """A role that may log in and no more."""
    await alter(pg_server.dsn(), "CREATE ROLE plain LOGIN")
    yield "plain"
    await alter(pg_server.dsn(), "DROP ROLE plain")


def test_migrations_are_numbered_from_one_without_a_gap_or_a_twin():
    assert [migration.version for migration in migrations()] == list(range(1, len(migrations()) + 1))


async def test_migrating_twice_does_nothing_the_second_time(make_database, open_database, profile_name):
    with anyio.fail_after(60):
        database = await open_database(await make_database(profile_name, migrated=False))
        assert await may_create(database)
        with pytest.raises(Misconfigured, match="schema poller is missing: run 'poller migrate'"):
            await verify(database)
        assert await migrate(database, profile_name) == Migrated(ALL, "created")
        assert await migrate(database, profile_name) == Migrated((), "kept")
        await verify(database)
        assert (await detect(database)).has_index


async def test_migrating_at_the_same_time_is_harmless(make_database, open_database):
    with anyio.fail_after(60):
        dsn = await make_database("fork", migrated=False)
        databases = [await open_database(dsn) for _ in range(4)]
        done: list[Migrated] = []

        async def one(database):
            done.append(await migrate(database, "fork"))

        async with anyio.create_task_group() as group:
            for database in databases:
                group.start_soon(one, database)
        assert sorted(migrated.applied for migrated in done) == [(), (), (), ALL]
        assert sorted(migrated.index for migrated in done) == ["created", "kept", "kept", "kept"]
        await verify(databases[0])


async def test_a_transaction_that_began_before_the_schema_was_made_sees_it_under_the_lock(make_database, open_database):
    """Look-ups by name may answer from a cache that is as old as the transaction."""
    with anyio.fail_after(60):
        dsn = await make_database("fork", migrated=False)
        late, quick = await open_database(dsn, max_open=1), await open_database(dsn)
        own = load_own()
        async with late.transaction() as transaction:
            assert (await transaction.fetch(own.lock_migration))[0]["is_locked"]
            assert not (await transaction.fetch(own.has_migrations))[0]["is_there"]
        async with late.transaction() as transaction:
            assert await migrate(quick, "fork") == Migrated(ALL, "created")
            assert (await transaction.fetch(own.lock_migration))[0]["is_locked"]
            assert (await transaction.fetch(own.has_migrations))[0]["is_there"]


async def test_an_invalid_index_is_a_left_over_and_made_anew(make_database, open_database):
    with anyio.fail_after(60):
        dsn = await make_database("main")
        await alter(dsn, "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'poller_active_tasks'::regclass")
        database = await open_database(dsn)
        assert (await migrate(database, "main")).index == "repaired"
        assert (await detect(database)).has_index


async def test_an_index_that_somebody_is_building_is_waited_for_and_not_dropped(make_database, open_database):
    with anyio.fail_after(60):
        dsn = await make_database("fork", migrated=False)
        first, second = await open_database(dsn), await open_database(dsn)
        await alter(dsn, "INSERT INTO tasks (platform, channel_id) VALUES ('custompass', 1)")
        blocker = await asyncpg.connect(dsn)
        blocking = blocker.transaction()
        await blocking.start()
        # CREATE INDEX CONCURRENTLY waits for this transaction; meanwhile its index is there and invalid.
        await blocker.execute("INSERT INTO tasks (platform, channel_id) VALUES ('custompass', 2)")
        outcomes: list[str] = []

        async def one(database):
            outcomes.append((await migrate(database, "fork")).index)

        async with anyio.create_task_group() as group:
            group.start_soon(one, first)
            group.start_soon(one, second)
            invalid = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"
            await eventually(lambda: blocker.fetchval(invalid))
            assert outcomes == []
            await blocking.rollback()
        await blocker.close()
        assert sorted(outcomes) == ["created", "kept"]


async def test_the_printed_plan_makes_the_same_schema(pg_server, make_database, open_database, profile_name):
    psql = pg_server.binaries / "psql"
    if not psql.exists() and not shutil.which("psql"):
        pytest.skip("no psql here")
    with anyio.fail_after(60):
        dsn = await make_database(profile_name, migrated=False)
        done = subprocess.run(  # noqa: ASYNC221  (nothing else runs meanwhile)
            [psql if psql.exists() else "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", dsn],
            input=plan(profile_name),
            text=True,
            capture_output=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        database = await open_database(dsn)
        await verify(database)
        assert await migrate(database, profile_name) == Migrated((), "kept")
        by_plan = await database.fetch(INDEX)
        by_us = await (await open_database(await make_database(profile_name))).fetch(INDEX)
        assert by_plan == by_us


async def test_a_schema_of_another_program_version_is_refused_with_the_remedy(make_database, open_database):
    with anyio.fail_after(60):
        dsn = await make_database("fork")
        database = await open_database(dsn)
        await verify(database)
        await alter(dsn, "INSERT INTO poller.migration (version, name, sha256) VALUES (9999, 'later', 'x')")
        with pytest.raises(Misconfigured, match="version 9999, newer than this program"):
            await verify(database)
        with pytest.raises(Misconfigured, match="newer"):
            await migrate(database, "fork")
        await alter(
            dsn, "DELETE FROM poller.migration WHERE version = 9999", "UPDATE poller.migration SET sha256 = 'x'"
        )
        with pytest.raises(Misconfigured, match="another file"):
            await verify(database)
        await alter(dsn, "DELETE FROM poller.migration WHERE version > 1", "DELETE FROM poller.migration")
        with pytest.raises(Misconfigured, match="missing"):
            await verify(database)


async def test_a_role_without_rights_is_told_and_changes_nothing(make_database, open_database, role):
    with anyio.fail_after(60):
        database = await open_database(with_role(await make_database("fork", migrated=False), role))
        assert not await may_create(database)
        with pytest.raises(NotPermitted, match="permission denied for database") as caught:
            await migrate(database, "fork")
        assert "run it as the owner of the database, or give a DBA what 'poller migrate --print'" in str(caught.value)
        assert "grant" not in str(caught.value)
        with pytest.raises(Misconfigured, match="missing"):
            await verify(database)


async def test_a_role_that_does_not_own_tasks_gets_the_schema_without_the_index(
    make_database, open_database, pg_server, role
):
    with anyio.fail_after(60):
        dsn = await make_database("fork", migrated=False)
        name = dsn.split("@/")[1].split("?")[0]
        await alter(dsn, f"GRANT CREATE ON DATABASE {name} TO {role}")
        database = await open_database(with_role(dsn, role))
        assert await may_create(database)
        assert await migrate(database, "fork") == Migrated(ALL, "not_permitted")
        await verify(database)
        await database.close()
        await alter(dsn, f"DROP OWNED BY {role} CASCADE")


async def test_behind_a_pooler_nothing_is_started(make_database, open_database, make_proxy):
    with anyio.fail_after(60):
        dsn = await make_database("fork", migrated=False)
        proxy, through = await make_proxy(dsn)
        proxy.to_client = other_pid
        with pytest.raises(Misconfigured, match="pooler"):
            await migrate(await open_database(through), "fork")
        with pytest.raises(Misconfigured, match="missing"):
            await verify(await open_database(dsn))
