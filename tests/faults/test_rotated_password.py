"""The password of the daemon's role changes under it, and back: nothing is lost, nobody restarts anything."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import anyio
import asyncpg
import pytest

from poller import daemon
from poller.settings import load
from tests.e2e.harness import until
from tests.faults.stand import stand
from tests.ops.things import recorder

LIMIT_S = 60
FIRST, SECOND = "canary-first", "canary-second"


@pytest.fixture
async def role(pg_server) -> AsyncIterator[str]:
    """A role that logs in by password."""
    name = f"rotated_{os.getpid()}"
    rules = pg_server.folder / "data" / "pg_hba.conf"
    before = rules.read_text()
    connection = await asyncpg.connect(pg_server.dsn())
    await connection.execute(f"CREATE ROLE {name} LOGIN SUPERUSER PASSWORD '{FIRST}'")
    rules.write_text(f"local all {name} scram-sha-256\n{before}")
    await connection.execute("SELECT pg_reload_conf()")
    yield name
    rules.write_text(before)
    await connection.execute("SELECT pg_reload_conf()")
    await connection.execute(f"DROP ROLE {name}")
    await connection.close()


async def test_a_password_that_is_changed_and_put_back_stops_a_daemon_only_for_as_long(make_database, pg_server, role):
    dsn = await make_database("main")
    seen, lines, _ = recorder()
    with anyio.fail_after(LIMIT_S):
        async with stand(dsn, pg_server.folder / f".s.PGSQL.{pg_server.port}", "main", shortest_s=1.0) as at:
            settings = {**at.settings, "SQL_DSN": at.settings["SQL_DSN"].replace("postgres@", f"{role}:{FIRST}@")}
            is_over = anyio.Event()

            async def run() -> None:
                await daemon.run(load(settings).settings, seen)
                is_over.set()

            async with anyio.create_task_group() as group:
                group.start_soon(run)
                await until(at.is_walking)
                await at.fetch(f"ALTER ROLE {role} PASSWORD '{SECOND}'")
                at.end_sessions()
                while "auth_failed" not in "\n".join(lines.text):
                    await anyio.sleep(0.02)
                assert not await at.is_drained()
                await at.fetch(f"ALTER ROLE {role} PASSWORD '{FIRST}'")
                await until(at.is_drained)
                assert not is_over.is_set()
                group.cancel_scope.cancel()
            assert [str(each) for each in await at.violations()] == []
    assert "canary" not in "\n".join(lines.text)
