"""A PostgreSQL of the fault suite's own, that can be crashed, restarted, filled up and failed over."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import anyio
import asyncpg

from poller.demo import embedded

LIMIT_S = 60.0
_PREFIX = "poller-faults-"
_SIZE = "400m"
_BUSY = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.DiskFullError,
)
_SETTINGS = {
    "listen_addresses": "",
    "max_connections": "60",
    "dynamic_shared_memory_type": "mmap",
    "fsync": "off",
    "full_page_writes": "off",
    "deadlock_timeout": "200ms",
    "shared_buffers": "32MB",
    "wal_level": "replica",
    "max_wal_senders": "4",
    "max_wal_size": "64MB",
    "min_wal_size": "32MB",
    "wal_keep_size": "0",
    "max_prepared_transactions": "4",
    "hot_standby": "on",
    "log_min_messages": "warning",
}
"""Without fsync a crash of the server still loses nothing: the kernel lives on."""


class Cluster:
    """One primary, and now and then its standby. Everything it makes is below *folder*, which ``close`` removes."""

    def __init__(self, major: int = 18) -> None:
        parent = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else Path(tempfile.gettempdir())
        _sweep(parent)
        self.folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent))
        self.is_bounded = self._bound()
        """Whether its disk is so small that a test may fill it."""
        self._tool, self._prefix = embedded._unprivileged(embedded.binaries(major), self.folder)
        self._generation = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._standby: subprocess.Popen[bytes] | None = None
        self.port = 5432

    def _bound(self) -> bool:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "poller-faults", str(self.folder)]
        return os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0

    # -- where it is -------------------------------------------------------------------------------------------------

    @property
    def home(self) -> Path:
        """Data, socket and log of the primary; another one after a failover."""
        return self.folder / str(self._generation)

    @property
    def socket(self) -> Path:
        return self.home / f".s.PGSQL.{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def dsn(self, database: str = "postgres") -> str:
        """The primary's own socket, past every proxy."""
        return f"postgresql://postgres@/{database}?host={self.home}&port={self.port}"

    def has(self, tool: str) -> bool:
        """Whether the server's binaries have *tool* beside them."""
        return (self._tool / tool).exists()

    def log(self) -> str:
        """What all servers of this cluster wrote."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*/log")))

    # -- life --------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        self.home.mkdir()
        await self._run(
            "initdb", "-D", self.home / "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "-N", "--locale=C"
        )
        await self.start()

    async def close(self) -> None:
        for process in (self._process, self._standby):
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGQUIT)
                with anyio.fail_after(LIMIT_S):
                    while process.poll() is None:
                        await anyio.sleep(0.02)
        _remove(self.folder)

    async def start(self) -> None:
        """Start the primary and wait until it takes connections; children of a killed one may still be ending."""
        with anyio.fail_after(LIMIT_S):
            while True:
                self._process = self._launch(self.home)
                while self._process.poll() is None:
                    if await self._answers(self.home):
                        return
                    await anyio.sleep(0.02)
                await anyio.sleep(0.1)

    async def ready(self) -> None:
        """Wait until the primary answers, restarting it when it did not survive."""
        with anyio.fail_after(LIMIT_S):
            while self._process is not None and self._process.poll() is None:
                if await self._answers(self.home):
                    return
                await anyio.sleep(0.02)
        await self.start()

    def _launch(self, home: Path) -> subprocess.Popen[bytes]:
        leash = ["setpriv", "--pdeathsig", "QUIT"] if shutil.which("setpriv") and sys.platform == "linux" else []
        given = {**_SETTINGS, "unix_socket_directories": str(home), "port": str(self.port)}
        options = [f"--{name}={value}" for name, value in given.items()]
        with (home / "log").open("ab") as log:
            return subprocess.Popen(
                [*self._prefix, *leash, self._tool / "postgres", "-D", home / "data", *options],
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def _run(self, tool: str, *arguments: str | Path) -> None:
        done = await anyio.run_process([*self._prefix, self._tool / tool, *arguments], cwd=self.folder, check=False)
        assert done.returncode == 0, done.stderr.decode()[-1000:]

    async def _answers(self, home: Path) -> bool:
        try:
            connection = await asyncpg.connect(
                f"postgresql://postgres@/postgres?host={home}&port={self.port}", timeout=5
            )
        except (OSError, asyncpg.PostgresError):
            return False
        connection.terminate()
        return True

    async def ask(self, query: str, *args: object, database: str = "postgres") -> list[asyncpg.Record]:
        """Run *query* as a person would; waits while the server is on its way up, or full."""
        settings = {"application_name": "rig", "default_transaction_read_only": "off"}
        with anyio.fail_after(LIMIT_S):
            while True:
                with contextlib.suppress(*_BUSY):
                    connection = await asyncpg.connect(self.dsn(database), timeout=5, server_settings=settings)
                    try:
                        return await connection.fetch(query, *args)
                    finally:
                        connection.terminate()
                await anyio.sleep(0.05)

    # -- faults ------------------------------------------------------------------------------------------------------

    async def restart(self, how: int = signal.SIGQUIT) -> None:
        """End the primary (SIGQUIT: immediate, SIGINT: fast, SIGKILL: the postmaster alone) and start it again."""
        assert self._process is not None
        self._process.send_signal(how)
        with anyio.fail_after(LIMIT_S):
            while self._process.poll() is None:
                await anyio.sleep(0.01)
        await self.start()

    async def crash_child(self) -> None:
        """Kill a server process: all sessions drop, and the server recovers by itself."""
        (row,) = await self.ask("SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'")
        os.kill(row["pid"], signal.SIGKILL)

    @contextlib.contextmanager
    def full_disk(self):  # type: ignore[no-untyped-def]
        """No room is left on its disk while the block runs. Only where ``is_bounded``."""
        filler = self.folder / "filler"
        try:
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                while file.write(b"x" * 65536):
                    pass
            yield
        finally:
            filler.unlink(missing_ok=True)

    async def make_standby(self) -> None:
        """A standby that streams from the primary, on the same disk."""
        home = self.folder / str(self._generation + 1)
        home.mkdir()
        source = ["-h", self.home, "-p", str(self.port), "-U", "postgres"]
        await self._run("pg_basebackup", *source, "-D", home / "data", "-R", "-X", "stream", "-c", "fast", "--no-sync")
        self._standby = self._launch(home)
        with anyio.fail_after(LIMIT_S):
            while not await self.ask("SELECT FROM pg_stat_replication WHERE state = 'streaming'"):
                await anyio.sleep(0.02)

    async def make_twin(self) -> Path:
        """A copy of the primary, promoted while that goes on: both take writes. Returns the socket of the copy."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        with anyio.fail_after(LIMIT_S):
            while self._process.poll() is None:
                await anyio.sleep(0.01)
        home = self.folder / str(self._generation + 1)
        shutil.copytree(self.home / "data", home / "data")
        (home / "data" / "standby.signal").touch()
        await self.start()
        self._standby = self._launch(home)
        with anyio.fail_after(LIMIT_S):
            while not await self._answers(home):
                await anyio.sleep(0.02)
        connection = await asyncpg.connect(f"postgresql://postgres@/postgres?host={home}&port={self.port}")
        assert await connection.fetchval("SELECT pg_promote(true, 30)")
        await connection.close()
        return home / f".s.PGSQL.{self.port}"

    async def stop_streaming(self) -> list[int]:
        """Freeze what feeds the standby: from here on it misses what the primary acknowledges."""
        rows = await self.ask("SELECT pid FROM pg_stat_replication")
        for row in rows:
            os.kill(row["pid"], signal.SIGSTOP)
        return [row["pid"] for row in rows]

    async def fail_over(self, frozen: list[int]) -> None:
        """Kill the primary for good, with the senders that were frozen, and promote the standby in its place."""
        assert self._process is not None
        assert self._standby is not None
        children = _children(self._process.pid)
        for pid in (self._process.pid, *frozen, *children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with anyio.fail_after(LIMIT_S):
            while self._process.poll() is None:
                await anyio.sleep(0.01)
        old = self.home
        self._generation += 1
        self._process, self._standby = self._standby, None
        connection = await asyncpg.connect(self.dsn())
        assert await connection.fetchval("SELECT pg_promote(true, 30)")
        await connection.close()
        shutil.rmtree(old / "data", ignore_errors=True)


def _remove(folder: Path) -> None:
    if folder.is_mount():
        subprocess.run(["umount", "-l", str(folder)], check=False)
    shutil.rmtree(folder, ignore_errors=True)


def _sweep(parent: Path) -> None:
    """Remove what runs left behind that were killed."""
    for folder in parent.glob(f"{_PREFIX}*-*"):
        owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdecimal() and not Path(f"/proc/{owner}").exists():
            _remove(folder)


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
