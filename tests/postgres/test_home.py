"""Two gateways in one database, by search_path: schema poller belongs to the first, and the second is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import asyncpg
import pytest

from poller.errors import OtherGateway
from poller.postgres.home import see_home
from poller.postgres.ledger import Ledger
from poller.postgres.statements import load
from tests.cli.conftest import poller as poller  # the fixture
from tests.cli.test_commands import in_thread
from tests.e2e.harness import Daemon, ending
from tests.postgres.gateway import Gateway, Site, failed, open_site, open_store

LIMIT_S = 60
SCHEMAS = Path(__file__).parents[2] / "poller" / "demo" / "schema"
MEND = "UPDATE poller.control SET gateway_schema = NULL"


@pytest.fixture
async def site(make_database, open_database, profile_name) -> AsyncIterator[Site]:
    """A gateway in schema public, whose daemon was there; and a second one, with an open task, in schema other."""
    with anyio.fail_after(LIMIT_S):
        made = await open_site(make_database, open_database, profile_name)
        await see_home(made.database, is_claimed=True)
        second = await asyncpg.connect(made.gateway.dsn)
        await second.execute("CREATE SCHEMA other; SET search_path = other")
        await second.execute((SCHEMAS / f"{profile_name}.sql").read_text())
        gateway = Gateway(profile_name, of_other(made), second)
        await gateway.task(await gateway.user(), await gateway.channel())
    yield made
    await made.gateway.connection.close()
    await second.close()


def of_other(site: Site) -> str:
    return f"{site.gateway.dsn}&search_path=other"


async def test_the_first_gateway_is_noted_and_stays_welcome(site, open_database):
    with anyio.fail_after(LIMIT_S):
        noted = "SELECT gateway_schema FROM poller.control"
        assert await site.gateway.connection.fetchval(noted) == "public"
        for is_claimed in (True, False):
            await see_home(site.database, is_claimed=is_claimed)
            with pytest.raises(OtherGateway, match="belongs to the tasks in schema public"):
                await see_home(await open_database(of_other(site)), is_claimed=is_claimed)
        assert await site.gateway.connection.fetchval(noted) == "public"


async def test_a_daemon_of_the_second_gateway_does_not_start_and_no_command_works_there(site, poller, tmp_path):
    with anyio.fail_after(LIMIT_S):
        ran = Daemon(of_other(site), tmp_path / "log", {}, ("run", "--once"))
        with ending(ran):
            assert await ran.ended() == 78
        assert "schema poller belongs to the tasks in schema public" in ran.said()
        for command in (("check",), ("status",), ("tasks", "list"), ("reconcile",), ("migrate",), ("run", "--dry-run")):
            done = await in_thread(poller, *command, SQL_DSN=of_other(site))
            assert (done.code, MEND in done.out + done.err) == (78, True), (command, done)
        assert (await in_thread(poller, "check", SQL_DSN=site.gateway.dsn)).code == 0
        assert await site.gateway.ledger() == []


async def test_a_session_whose_search_path_was_changed_settles_nothing(site, open_database):
    """ALTER ROLE under a running daemon: its next connections find the other tasks."""
    with anyio.fail_after(LIMIT_S):
        database = await open_database(of_other(site))
        store = await open_store(database, site.gateway)
        tasks = (await store.page(1, 0, 10)).tasks
        assert len(tasks) == 1
        with pytest.raises(OtherGateway):
            await store.settle([failed(task) for task in tasks])
        with pytest.raises(OtherGateway):
            await Ledger(database, load(site.gateway.profile)).set_aside([tasks[0].pk], "me")
        assert await site.gateway.ledger() == []


async def test_of_two_daemons_that_come_first_at_once_one_is_refused(site, open_database):
    with anyio.fail_after(LIMIT_S):
        databases = [await open_database(dsn) for dsn in (site.gateway.dsn, of_other(site))]
        for _ in range(10):
            await site.gateway.connection.execute(MEND)
            refused: list[OtherGateway] = []
            async with anyio.create_task_group() as group:
                for database in databases:
                    group.start_soon(comes, database, refused)
            assert len(refused) == 1


async def comes(database, refused: list[OtherGateway]) -> None:
    try:
        await see_home(database, is_claimed=True)
    except OtherGateway as other:
        refused.append(other)


async def test_a_renamed_schema_is_told_in_one_line(site, open_database):
    with anyio.fail_after(LIMIT_S):
        await site.gateway.connection.execute("ALTER SCHEMA public RENAME TO gateway")
        database = await open_database(f"{site.gateway.dsn}&search_path=gateway")
        with pytest.raises(OtherGateway) as refused:
            await see_home(database, is_claimed=True)
        assert MEND in str(refused.value)
        await site.gateway.connection.execute(MEND)
        await see_home(database, is_claimed=True)
        await see_home(database)
