"""Behind a real PgBouncer in transaction mode, the hardest place to stand; skipped where there is none."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator

import anyio
import pytest

from poller.errors import DatabaseAway, Misconfigured
from poller.postgres.leases import Leases
from poller.postgres.migrate import migrate, verify
from poller.postgres.profile import detect
from poller.postgres.statements import Statement, load
from tests.leftovers import LEASH, new_folder
from tests.ports import free_port

PGBOUNCER = os.environ.get("POLLER_TEST_PGBOUNCER") or shutil.which("pgbouncer", path="/usr/sbin:/usr/bin")
pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="no pgbouncer here; POLLER_TEST_PGBOUNCER names one")


@contextlib.contextmanager
def pgbouncer(server: str) -> Iterator[int]:
    """Its port; two server connections for all clients, so that clients are moved about all the time."""
    port = free_port()
    folder = new_folder("pooler")
    folder.chmod(0o755)
    (folder / "ini").write_text(
        f"[databases]\n* = {server} user=postgres\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        "pool_mode = transaction\ndefault_pool_size = 2\n"
    )
    # It refuses to be root, and must reach a socket that is root's: nobody in a namespace of its own, as the server is.
    as_nobody = ["unshare", "--user", "--map-user=65534", "--map-group=65534"] if os.geteuid() == 0 else []
    process = subprocess.Popen([*as_nobody, *LEASH, PGBOUNCER, "-q", folder / "ini"], stderr=subprocess.DEVNULL)
    try:
        give_up_s = time.monotonic() + 30
        while time.monotonic() < give_up_s:
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", port)):
                    break
            time.sleep(0.01)
        yield port
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        shutil.rmtree(folder)


@pytest.fixture
async def behind(pg_server, make_database):
    """DSNs of one database: direct, and through the pooler."""
    dsn = await make_database("fork")
    name = dsn.split("@/")[1].split("?")[0]
    with pgbouncer(f"host={pg_server.folder} port={pg_server.port}") as port:
        yield dsn, f"postgres://postgres@127.0.0.1:{port}/{name}?sslmode=disable&TimeZone=Asia/Shanghai"


async def test_many_clients_on_two_server_connections_never_mix_up_their_statements(behind, open_database):
    _, through = behind
    with anyio.fail_after(60):
        database = await open_database(through, max_open=8, acquire_timeout_s=30.0)
        assert database.is_pooled
        wrong: list[tuple[int, int]] = []

        async def ask(number: int) -> None:
            statement = Statement(f"echo{number % 7}", f"SELECT $1::bigint + {number % 7} AS sum")
            for value in range(20):
                ((got,),) = await database.fetch(statement, value, timeout_s=30.0)
                if got != value + number % 7:
                    wrong.append((number, value))

        async with anyio.create_task_group() as group:
            for number in range(24):
                group.start_soon(ask, number)
        assert wrong == []


async def test_what_the_pooler_remembers_of_a_read_only_server_keeps_nobody_from_it_for_ever(behind, open_database):
    direct, through = behind
    name = direct.split("@/")[1].split("?")[0]
    with anyio.fail_after(60):
        plain = await open_database(direct)
        await plain.fetch(Statement("close", f"ALTER DATABASE {name} SET default_transaction_read_only = on"))
        with pytest.raises(DatabaseAway, match="read_only"):
            await open_database(through)
        await plain.fetch(Statement("open", f"ALTER DATABASE {name} RESET default_transaction_read_only"))
        sessions = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()"
        )
        await plain.fetch(Statement("promote", sessions), name)
        database = await open_database(through)
        assert await database.fetch(Statement("show", "SHOW transaction_read_only")) == [("off",)]
        await database.fetch(Statement("write", "UPDATE poller.control SET is_paused = false"))


async def test_a_replica_works_behind_the_pooler_as_it_does_without(behind, open_database):
    direct, through = behind
    with anyio.fail_after(60):
        plain = await open_database(direct)
        await plain.fetch(
            Statement("fill", "INSERT INTO tasks (platform, channel_id, status) VALUES ('custompass', 1, 'SUBMITTED')")
        )
        database = await open_database(through)
        assert (await detect(database)).name == "fork"
        await verify(database)
        leases = Leases(database, load("fork"), "a", 15.0)
        assert [lane.channel_id for lane in (await leases.beat()).lanes] == [1]
        async with database.transaction(lock_timeout_s=1.25) as transaction:
            assert await transaction.fetch(Statement("limit", "SHOW lock_timeout")) == [("1250ms",)]
        assert await plain.fetch(Statement("rest", "SHOW lock_timeout")) == [("2s",)]
        with pytest.raises(Misconfigured, match="pooler"):
            await migrate(database, "fork")
