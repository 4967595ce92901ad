"""Another server behind the same address: nothing is written to it, and the one that we know is taken back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import asyncpg
import pytest

from poller.demo import world
from poller.errors import DatabaseAway
from poller.postgres.database import Database
from poller.postgres.statements import Statement
from tests.e2e.harness import TERM, Daemon, ending, fetchval, until
from tests.faults.cluster import Cluster
from tests.faults.proxy import Proxy
from tests.postgres.test_pooler import PGBOUNCER, pgbouncer

LIMIT_S = 90.0
NOTE = Statement("note", "INSERT INTO notes DEFAULT VALUES RETURNING 1 AS one")
MAKE = "CREATE TABLE notes (id serial PRIMARY KEY)"


class Address:
    """One port, and the server that it leads to at the moment."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.socket = cluster.socket
        self.proxy = Proxy(lambda: self.socket)

    def leads_to(self, socket: Path) -> None:
        self.socket = socket
        self.proxy.cut_all()

    @property
    def dsn(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.proxy.port}/postgres?sslmode=disable"


@pytest.fixture
async def make_cluster() -> AsyncIterator[object]:
    made: list[Cluster] = []

    async def make() -> Cluster:
        cluster = Cluster()
        made.append(cluster)
        await cluster.open()
        connection = await asyncpg.connect(cluster.dsn())
        await connection.execute(MAKE)
        await connection.close()
        return cluster

    yield make
    for cluster in made:
        await cluster.close()


@pytest.fixture
async def address(make_cluster) -> AsyncIterator[Address]:
    found = Address(await make_cluster())
    await found.proxy.start()
    yield found
    await found.proxy.close()


async def notes(socket: Path) -> int:
    connection = await asyncpg.connect(f"postgresql://postgres@/postgres?host={socket.parent}&port=5432")
    count = await connection.fetchval("SELECT count(*) FROM notes")
    await connection.close()
    return int(count)


async def note(database: Database) -> None:
    """A statement of its own and one in a transaction; the first try may meet a connection that was cut."""
    for _ in range(2):
        try:
            await database.fetch(NOTE)
            break
        except DatabaseAway as away:
            if away.reason != "lost":
                raise
    async with database.transaction() as transaction:
        await transaction.fetch(NOTE)


async def refused(database: Database) -> None:
    for _ in range(3):
        with pytest.raises(DatabaseAway):
            await database.fetch(NOTE)
    with pytest.raises(DatabaseAway, match="identity_changed"):
        async with database.transaction() as transaction:
            await transaction.fetch(NOTE)


async def test_another_server_behind_the_address_is_never_written_to(address, make_cluster, open_database):
    with anyio.fail_after(LIMIT_S):
        said: list[tuple[str, str | None]] = []
        other = await make_cluster()
        database = await open_database(address.dsn, say_identity=lambda known, met: said.append((known, met)))
        await note(database)
        address.leads_to(other.socket)
        await refused(database)
        assert await notes(other.socket) == 0
        known = str(database.server.identity)
        assert {each[0] for each in said} == {known}
        assert all(met not in (known, None) for _, met in said)
        address.leads_to(address.cluster.socket)
        await note(database)
        assert said[-1] == (known, None)
        assert await notes(address.cluster.socket) == 4


async def test_a_promotion_is_followed_and_its_old_primary_is_not_gone_back_to(address, open_database):
    with anyio.fail_after(LIMIT_S):
        said: list[tuple[str, str | None]] = []
        twin = await address.cluster.make_twin()
        database = await open_database(address.dsn, say_identity=lambda known, met: said.append((known, met)))
        await note(database)
        address.leads_to(twin)
        await note(database)
        assert said == []
        assert str(database.server.identity).endswith("timeline 2")
        address.leads_to(address.cluster.socket)
        await refused(database)
        assert said[0][1].endswith("timeline 1")
        assert await notes(address.cluster.socket) == 2
        assert await notes(twin) == 2


async def test_connections_to_the_old_primary_end_when_another_one_was_met(address, open_database):
    with anyio.fail_after(LIMIT_S):
        twin = await address.cluster.make_twin()
        database = await open_database(address.dsn, max_open=2, max_idle=2)
        await note(database)
        async with database.transaction() as open_one:
            # The address moves while nobody cuts what is open.
            address.socket = twin
            await note(database)
            await open_one.fetch(NOTE)
        assert str(database.server.identity).endswith("timeline 2")
        before = await notes(address.cluster.socket)
        for _ in range(3):
            await note(database)
        assert (await notes(address.cluster.socket), await notes(twin)) == (before, 8)


@pytest.mark.skipif(PGBOUNCER is None, reason="no pgbouncer here")
async def test_another_server_behind_a_pooler_is_never_written_to(address, make_cluster, open_database):
    with anyio.fail_after(LIMIT_S):
        other = await make_cluster()
        with pgbouncer(f"host=127.0.0.1 port={address.proxy.port}") as port:
            database = await open_database(f"postgres://postgres@127.0.0.1:{port}/postgres?sslmode=disable")
            assert database.is_pooled
            await note(database)
            address.leads_to(other.socket)
            await refused(database)
            assert await notes(other.socket) == 0
            address.leads_to(address.cluster.socket)
            await note(database)
            assert await notes(address.cluster.socket) == 4


async def test_a_server_that_does_not_say_who_it_is_is_worked_with_all_the_same(address, open_database):
    with anyio.fail_after(LIMIT_S):
        owner = await asyncpg.connect(address.cluster.dsn())
        await owner.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC; CREATE ROLE plain LOGIN")
        await owner.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO plain")
        await owner.execute("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO plain")
        await owner.close()
        database = await open_database(address.dsn.replace("postgres@", "plain@"))
        assert database.server.identity is None
        await note(database)


async def test_a_server_that_no_longer_says_who_it_is_is_not_written_to(address, make_cluster, open_database):
    with anyio.fail_after(LIMIT_S):
        other = await make_cluster()
        for cluster in (address.cluster, other):
            owner = await asyncpg.connect(cluster.dsn())
            await owner.execute("CREATE ROLE plain LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO plain")
            await owner.execute("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO plain")
            if cluster is other:
                await owner.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
            await owner.close()
        database = await open_database(address.dsn.replace("postgres@", "plain@"))
        await note(database)
        address.leads_to(other.socket)
        await refused(database)
        assert await notes(other.socket) == 0
        address.leads_to(address.cluster.socket)
        await note(database)
        assert await notes(address.cluster.socket) == 4


async def test_a_daemon_that_meets_another_server_is_live_and_not_ready_until_the_one_it_knows_is_back(
    address, make_cluster, tmp_path
):
    async def metric() -> str:
        _, body = await daemon.get("/metrics")
        return next(line for line in body.splitlines() if line.startswith("custompass_database_identity_changed "))

    async def is_ready() -> bool:
        return (await daemon.get("/readyz"))[0] == 200

    with anyio.fail_after(LIMIT_S):
        other = await make_cluster()
        for cluster in (address.cluster, other):
            connection = await asyncpg.connect(cluster.dsn())
            await world.make_gateway(connection, "main")
            await connection.close()
        daemon = Daemon(address.dsn, tmp_path / "log", {})
        with ending(daemon):
            await until(is_ready)
            address.leads_to(other.socket)
            await daemon.says("[ERROR] custompass: database_identity_changed")
            assert (await daemon.get("/livez"))[0] == 200
            status, body = await daemon.get("/readyz?verbose")
            assert (status, "identity_changed" in body) == (503, True)
            assert (await metric()).endswith(" 1.0")
            assert await fetchval(other.dsn(), "SELECT to_regnamespace('poller') IS NULL")
            address.leads_to(address.cluster.socket)
            await until(is_ready)
            assert (await metric()).endswith(" 0.0")
            daemon.signal(TERM)
            assert await daemon.ended() == 0
