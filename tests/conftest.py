"""A real PostgreSQL for the whole session, and a database of its own for each test that asks for one.

``POLLER_TEST_PG`` picks the server's major version: 18 (default) and 16 come with the wheel, 15 from the system.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from hypothesis import settings

from poller.core import breaker
from poller.core.model import Secret
from poller.demo.embedded import Server, postgres
from poller.postgres.migrate import migrate
from poller.postgres.pool import Database, open_pool
from poller.postgres.statements import PROFILES
from tests.upstream.rig import MakeRig, Rig, open_rig

# No deadline for single examples: the machine may be busy with a database next door.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

SCHEMAS = Path(__file__).parent.parent / "poller" / "demo" / "schema"
POOL: dict[str, Any] = {"max_open": 5, "max_idle": 1, "lifetime_s": 60.0, "application_name": "poller/test"}

MakeDatabase = Callable[..., Awaitable[str]]
OpenDatabase = Callable[..., Awaitable[Database]]


LONG = {"e2e", "deploy", "cli", "upstream"}
"""Folders whose tests run whole processes or wait for time-outs."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first: none is left to one process at the end, while the others have nothing to do."""
    items.sort(key=lambda item: LONG.isdisjoint(item.path.parts))


@pytest.fixture(scope="session")
def pg_server() -> Iterator[Server]:
    """A running cluster; ``pg_server.dsn(name)`` is the DSN of one of its databases."""
    with postgres(major=int(os.environ.get("POLLER_TEST_PG", "18"))) as server:
        yield server


@pytest.fixture(params=PROFILES)
def profile_name(request: pytest.FixtureRequest) -> str:
    """Each of the three profiles in turn."""
    return str(request.param)


async def _run(dsn: str, *scripts: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        for script in scripts:
            await connection.execute(script)
    finally:
        await connection.close()


async def _make_template(server: Server, name: str, profile: str, *, migrated: bool) -> None:
    await _run(server.dsn(), f"CREATE DATABASE {name} TEMPLATE template0")
    await _run(server.dsn(name), (SCHEMAS / f"{profile}.sql").read_text())
    if migrated:
        database = await open_pool(Secret(server.dsn(name)), **POOL)
        await migrate(database, profile)
        await database.close()


_numbers = itertools.count(1)
_templates: dict[tuple[Path, str, bool], str] = {}


async def _template(server: Server, profile: str, *, migrated: bool) -> str:
    """Name of the database that tests of this kind are cloned from, made when first asked for."""
    key = (server.folder, profile, migrated)
    if key not in _templates:
        name = f"template_{profile}_{'migrated' if migrated else 'bare'}"
        await _make_template(server, name, profile, migrated=migrated)
        _templates[key] = name
    return _templates[key]


@pytest.fixture
async def make_database(pg_server: Server) -> AsyncIterator[MakeDatabase]:
    """``dsn = await make_database("fork")``: a fresh database, dropped after the test.

    It has the gateway's tables, our schema and the index; with ``migrated=False`` the gateway's tables alone.
    """
    made: list[str] = []

    async def make(profile: str, *, migrated: bool = True) -> str:
        template = await _template(pg_server, profile, migrated=migrated)
        name = f"test_{os.getpid()}_{next(_numbers)}"
        await _run(pg_server.dsn(), f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        made.append(name)
        return pg_server.dsn(name)

    yield make
    for name in made:
        await _run(pg_server.dsn(), f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture
async def open_database() -> AsyncIterator[OpenDatabase]:
    """``database = await open_database(dsn)``: an open pool, closed after the test; takes the options of open_pool."""
    opened: list[Database] = []

    async def open_(dsn: str, **options: object) -> Database:
        database = await open_pool(Secret(dsn), **POOL | options)
        opened.append(database)
        return database

    yield open_
    for database in opened:
        await database.close()


@pytest.fixture
async def make_rig(make_database: MakeDatabase, open_database: OpenDatabase) -> AsyncIterator[MakeRig]:
    """``rig = await make_rig("fork", timeout_s=0.5)``: a lane's surroundings on a fresh database, closed afterwards."""
    made: list[Rig] = []

    async def make(profile: str = "main", **settings: object) -> Rig:
        rig = await open_rig(make_database, open_database, profile, **settings)
        made.append(rig)
        return rig

    yield make
    for rig in made:
        await rig.close()


@pytest.fixture
def hasty_breaker(monkeypatch: pytest.MonkeyPatch) -> None:
    """The waits of the breaker at a hundredth of their length."""
    monkeypatch.setattr(breaker, "FIRST_DELAY_S", breaker.FIRST_DELAY_S / 100)
    monkeypatch.setattr(breaker, "LAST_DELAY_S", breaker.LAST_DELAY_S / 100)
