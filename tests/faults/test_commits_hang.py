"""A synchronous standby is gone, so that every COMMIT waits for ever: deadlines end each, and nothing piles up."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import anyio
import asyncpg

from poller.core.model import Task
from poller.errors import DatabaseAway
from tests.e2e.harness import until
from tests.faults.stand import Stand, stand
from tests.faults.test_crash_points import DEADLINE_S, hurry
from tests.postgres.gateway import failed, open_site, open_store

LIMIT_S = 60
ROUNDS = 12
"""How many statements are seen to hang in their commit, and to end."""
CONNECTIONS = 4
WAITING = """
    SELECT pid, query_start, extract(epoch FROM clock_timestamp() - query_start)::float8 AS age_s
    FROM pg_stat_activity WHERE application_name LIKE 'poller/%' AND wait_event = 'SyncRep'
"""
OURS = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'poller/%'"


@contextlib.asynccontextmanager
async def no_standby(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """Within the block the server waits for a standby that never answers."""
    await connection.execute("ALTER SYSTEM SET synchronous_standby_names = 'nosuch'")
    try:
        await connection.execute("SELECT pg_reload_conf()")
        yield
    finally:
        await connection.execute("ALTER SYSTEM RESET synchronous_standby_names")
        await connection.execute("SELECT pg_reload_conf()")


async def test_a_commit_that_hangs_ends_at_its_deadline_and_what_became_of_it_is_found_out_later(
    make_database, open_database, profile_name
):
    with anyio.fail_after(LIMIT_S):
        site = await open_site(make_database, open_database, profile_name)
        database = await open_database(site.gateway.dsn, command_timeout_s=DEADLINE_S, max_open=CONNECTIONS)
        store = await open_store(database, site.gateway)
        owners, tasks = [await site.gateway.user() for _ in range(2 * CONNECTIONS)], []
        for owner in owners:
            # Each on a channel of its own: no settlement waits for the rows of another one.
            channel = await site.gateway.channel()
            await site.gateway.task(owner, channel, 10)
            tasks += await site.tasks(channel)
        refused: list[DatabaseAway] = []

        async def settle(task: Task) -> None:
            try:
                await store.settle([failed(task)])
            except DatabaseAway as away:
                refused.append(away)

        began_s = anyio.current_time()
        async with no_standby(site.gateway.connection), anyio.create_task_group() as group:
            for task in tasks:
                group.start_soon(settle, task)
        # Two rounds for the connections that there are, each tried thrice.
        assert anyio.current_time() - began_s < 20 * DEADLINE_S
        assert {away.reason for away in refused} == {"commit_unknown"}
        assert len(refused) == len(tasks)
        (ours,) = await site.gateway.rows(f"{OURS} AND datname = current_database()")
        assert ours["count"] <= CONNECTIONS + 1
        await store.settle([failed(task) for task in tasks])
        assert [(await site.gateway.balance(owner))[0] for owner in owners] == [1010] * len(owners)
        assert len(await site.gateway.ledger()) == len(tasks)
        await site.gateway.connection.close()


async def test_while_every_commit_hangs_deadlines_end_each_and_connections_stay_few_and_all_heals_exactly(
    make_database, pg_server, monkeypatch
):
    dsn = await make_database("main")
    hurry(monkeypatch)
    longest_s, most = 0.0, 0
    ended: set[tuple[int, object]] = set()

    async def hang(at: Stand) -> None:
        nonlocal longest_s, most
        await until(at.is_walking)
        connection = await asyncpg.connect(dsn, server_settings={"application_name": "rig"})
        seen: set[tuple[int, object]] = set()
        async with no_standby(connection):
            while len(ended) < ROUNDS:
                waiting = await connection.fetch(WAITING)
                now = {(row["pid"], row["query_start"]) for row in waiting}
                ended.update(seen - now)
                seen |= now
                longest_s = max([longest_s, *(row["age_s"] for row in waiting)])
                most = max(most, await connection.fetchval(OURS))
                assert longest_s < 10 * DEADLINE_S, "a COMMIT outlived its deadline"
                await anyio.sleep(0.02)
        await connection.close()

    is_done = False

    async def is_over() -> bool:
        nonlocal is_done
        if not is_done:
            await hang(at)
            is_done = True
        return True

    with anyio.fail_after(LIMIT_S):
        async with stand(dsn, pg_server.folder / f".s.PGSQL.{pg_server.port}", "main", shortest_s=1.0) as at:
            at.settings["CUSTOM_PASS_DB_MAX_OPEN_CONNS"] = str(CONNECTIONS)
            await at.settle_all(0, lambda _label, _cancel: None, is_over)
            assert [str(each) for each in await at.violations()] == []
    assert most <= CONNECTIONS + 1
