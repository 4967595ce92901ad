"""A replica that leaves holds nothing afterwards, also not what it asked for and was never told about."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import cast

import anyio
import asyncpg
import pytest

from poller.fleet import Fleet
from poller.lane import Lane
from poller.postgres.leases import Leases
from poller.postgres.statements import load
from tests.bounded import within
from tests.postgres.eventually import eventually
from tests.postgres.proxy import as_is
from tests.test_fleet import Recorder, Walker

LIMIT_S = 60.0
TTL_S = 15.0
SQL = load("fork")
_CANCEL = b"\x04\xd2\x16\x2e"


def without_cancels(data: bytes) -> bytes:
    """A network on which no request to cancel a statement arrives."""
    return b"" if data[4:8] == _CANCEL else data


class Site:
    """A gateway with work on four channels, seen past every proxy."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(self.dsn)
        try:
            yield connection
        finally:
            await connection.close()

    async def fetchval(self, query: str, *args: object) -> object:
        async with self.session() as session:
            return await session.fetchval(query, *args)

    async def held(self) -> object:
        """The channels that have a holder."""
        return await self.fetchval("SELECT array_agg(channel_id ORDER BY 1) FROM poller.lane WHERE holder IS NOT NULL")

    async def waits(self, name: str) -> object:
        """Whether the statement *name* waits for a lock in the server."""
        return await self.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE $1",
            f"/* poller:{name} */%",
        )

    async def has_ended(self) -> object:
        """Whether no session of a replica is left that does anything."""
        return await self.fetchval(
            "SELECT count(*) = 0 FROM pg_stat_activity"
            " WHERE datname = current_database() AND state <> 'idle' AND pid <> pg_backend_pid()"
        )


@pytest.fixture
async def site(make_database) -> Site:
    site = Site(await make_database("fork"))
    async with site.session() as session:
        await session.execute(
            "INSERT INTO tasks (platform, channel_id, status)"
            " SELECT 'custompass', channel, 'SUBMITTED' FROM generate_series(1, 4) AS channel"
        )
    return site


def fleet(leases: Leases, *, renewal_s: float = TTL_S / 3) -> Fleet:
    """A replica whose lanes do nothing until they are told to leave."""
    return Fleet(
        leases,
        lambda channel_id: cast(Lane, Walker(channel_id)),
        Recorder(),
        interval_s=30.0,
        renewal_s=renewal_s,
        start_delay_s=0.0,
    )


@within(LIMIT_S)
async def test_what_the_server_takes_after_the_replica_left_is_nothing(site, make_proxy, open_database):
    proxy, dsn = await make_proxy(site.dsn)
    proxy.to_server = without_cancels
    leases = Leases(await open_database(dsn, max_open=1), SQL, "leaving", TTL_S)
    # A statement that was prepared is run by one message: nobody needs to be there any more when the server reads it.
    await leases.beat()
    await leases.release([1, 2, 3, 4])
    async with site.session() as rival:
        async with rival.transaction():
            # Of all that leases do, taking alone looks at this table.
            await rival.execute("LOCK TABLE poller.control IN ACCESS EXCLUSIVE MODE")
            async with anyio.create_task_group() as beating:
                beating.start_soon(leases.beat)
                await eventually(lambda: site.waits("take"))
                beating.cancel_scope.cancel()
            await leases.release()
            assert await site.waits("take")
        await eventually(site.has_ended)
    assert await site.held() is None


@within(LIMIT_S)
async def test_leaving_waits_for_a_take_under_way_and_hands_back_what_it_took(site, open_database):
    leases = Leases(await open_database(site.dsn), SQL, "leaving", TTL_S)
    await leases.beat()
    await leases.release([1, 2])
    async with site.session() as lost, anyio.create_task_group() as group, lost.transaction():
        taken = await lost.fetch(SQL.take.text, "leaving", TTL_S, False)
        assert [row["channel_id"] for row in taken] == [1, 2]
        group.start_soon(leases.release)
        await eventually(lambda: site.waits("leave"))
    assert await site.held() is None


@within(LIMIT_S)
async def test_a_renewal_that_arrives_after_the_replica_left_brings_it_not_back(site, open_database):
    database = await open_database(site.dsn)
    leaving, staying = (Leases(database, SQL, name, TTL_S) for name in ("leaving", "staying"))
    await leaving.beat()
    await leaving.release()
    assert (await leaving.beat()).lanes == ()
    beat = await staying.beat()
    assert (len(beat.lanes), beat.replicas) == (4, 1)
    assert [row["id"] for row in await staying.replicas_overview()] == ["staying"]


@within(LIMIT_S)
async def test_a_beat_that_hangs_on_the_only_connection_keeps_no_lease_from_being_handed_back(
    site, make_proxy, open_database
):
    proxy, dsn = await make_proxy(site.dsn)
    replica = fleet(Leases(await open_database(dsn, max_open=1), SQL, "leaving", TTL_S), renewal_s=0.01)
    async with anyio.create_task_group() as group:
        group.start_soon(replica.run)
        while len(replica.lanes) < 4:
            await anyio.sleep(0.01)
        is_lost = anyio.Event()

        def lose_one(data: bytes) -> bytes:
            proxy.to_server = as_is
            is_lost.set()
            return b""

        proxy.to_server = lose_one
        await is_lost.wait()
        with anyio.fail_after(4):
            assert await replica.drain(25.0)
    assert await site.held() is None
