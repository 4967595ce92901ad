"""Which gateway a database belongs to: told by its columns, refused in words that help."""

from __future__ import annotations

import anyio
import asyncpg
import pytest

from poller.errors import Misconfigured
from poller.postgres import profile as module
from poller.postgres.migrate import migrate
from poller.postgres.profile import detect
from poller.postgres.statements import PROFILES, Statement, load

TYPES = {
    "whole": "bigint",
    "number": "numeric",
    "text": "varchar(191)",
    "json": "json",
    "jsonb": "jsonb",
    "time": "timestamptz",
}


async def alter(dsn: str, script: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute(script)
    await connection.close()


async def are_understood(connection: asyncpg.Connection, statements: list[Statement]) -> bool:
    try:
        for statement in statements:
            await connection.prepare(statement.text)
    except (asyncpg.UndefinedColumnError, asyncpg.UndefinedTableError):
        return False
    return True


async def test_each_gateway_is_told_by_its_columns(make_database, open_database, profile_name):
    with anyio.fail_after(30):
        database = await open_database(await make_database(profile_name))
        found = await detect(database)
    assert (found.name, found.quota_bits, found.has_index) == (profile_name, 64, True)
    assert "tasks." in found.why


async def test_a_database_without_our_schema_is_told_just_the_same(make_database, open_database, profile_name):
    with anyio.fail_after(30):
        database = await open_database(await make_database(profile_name, migrated=False))
        found = await detect(database, profile_name)
    assert (found.name, found.has_index) == (profile_name, False)


async def test_the_first_fork_is_refused(make_database, open_database):
    with anyio.fail_after(30):
        dsn = await make_database("fork")
        await alter(dsn, "ALTER TABLE tasks ADD COLUMN token_id bigint, ADD COLUMN token_key varchar(48)")
        database = await open_database(dsn)
        with pytest.raises(Misconfigured, match="F0") as caught:
            await detect(database, "fork")
    assert caught.value.exit_code == 78
    assert len(caught.value.faults) == 1


async def test_a_claim_that_the_database_contradicts_is_refused(make_database, open_database, profile_name):
    with anyio.fail_after(30):
        database = await open_database(await make_database(profile_name))
        for wanted in PROFILES:
            if wanted != profile_name:
                with pytest.raises(Misconfigured, match=f"{wanted} was asked for, but this database is {profile_name}"):
                    await detect(database, wanted)
        with pytest.raises(Misconfigured, match="none of auto"):
            await detect(database, "other")


async def test_every_missing_or_mistyped_column_is_named(make_database, open_database):
    with anyio.fail_after(30):
        dsn = await make_database("fork")
        await alter(
            dsn,
            "ALTER TABLE users RENAME COLUMN quota TO balance; ALTER TABLE logs RENAME TO journal; "
            "ALTER TABLE tasks ALTER COLUMN finish_time TYPE text",
        )
        database = await open_database(dsn)
        with pytest.raises(Misconfigured) as caught:
            await detect(database)
    assert caught.value.faults[1:] == (
        "column tasks.finish_time: expected bigint or integer or smallint, found text",
        "column users.quota: missing, expected bigint or integer or smallint",
        "table logs: missing",
    )


async def test_no_gateway_at_all_is_said_to_be_none(make_database, open_database):
    with anyio.fail_after(30):
        dsn = await make_database("fork")
        database = await open_database(dsn)
        await alter(dsn, "ALTER TABLE tasks DROP COLUMN submit_time")
        with pytest.raises(Misconfigured, match="no known gateway"):
            await detect(database)
        await alter(dsn, "DROP TABLE tasks")
        with pytest.raises(Misconfigured, match="no table tasks"):
            await detect(database)


async def test_a_narrow_quota_column_and_an_invalid_index_are_noticed(make_database, open_database):
    with anyio.fail_after(30):
        dsn = await make_database("main")
        await alter(
            dsn,
            "ALTER TABLE users ALTER COLUMN quota TYPE integer; "
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'poller_active_tasks'::regclass",
        )
        found = await detect(await open_database(dsn))
    assert (found.quota_bits, found.has_index) == (32, False)


async def test_our_statements_need_no_column_that_is_not_asked_for(make_database, open_database, profile_name):
    """On a database that has just the expected columns, all statements are understood."""
    with anyio.fail_after(60):
        dsn = await make_database(profile_name, migrated=False)
        tables = module._EXPECTED[profile_name]
        for table, columns in tables.items():
            parts = [part.split(":") for part in columns.split()]
            body = ", ".join(f'"{name}" {TYPES[kind]}' for name, kind in parts)
            await alter(dsn, f"DROP TABLE {table} CASCADE; CREATE TABLE {table} ({body})")
        database = await open_database(dsn)
        assert (await detect(database)).name == profile_name
        await migrate(database, profile_name)
        connection = await asyncpg.connect(dsn)
        for statement in load(profile_name).values():
            if statement.name not in ("index", "drop_index"):
                await connection.prepare(statement.text)
        await connection.close()


async def test_tables_are_found_where_the_search_path_says(make_database, open_database):
    with anyio.fail_after(30):
        dsn = await make_database("fork")
        await alter(dsn, "ALTER SCHEMA public RENAME TO gateway")
        found = await detect(await open_database(f"{dsn}&search_path=gateway"))
        assert (found.name, found.has_index) == ("fork", True)
        database = await open_database(f"{dsn}&search_path=gateway")
        assert await database.fetch(load("fork").discover) == []
        assert isinstance(load("fork").discover, Statement)


async def test_no_column_is_asked_for_that_no_statement_needs(make_database, profile_name):
    """Dropping any expected column makes some statement fail: a gateway without it could not be served."""
    with anyio.fail_after(60):
        connection = await asyncpg.connect(await make_database(profile_name))
        statements = [one for one in load(profile_name).values() if one.name not in ("index", "drop_index")]
        needless = []
        for table, columns in module._EXPECTED[profile_name].items():
            for column in (part.split(":")[0] for part in columns.split()):
                attempt = connection.transaction()
                await attempt.start()
                await connection.execute(f'ALTER TABLE {table} RENAME COLUMN "{column}" TO something_else')
                if await are_understood(connection, statements):
                    needless.append(f"{table}.{column}")
                await attempt.rollback()
        await connection.close()
    assert needless == []
