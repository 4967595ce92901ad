"""``poller demo``: a gateway's database, an upstream, the real daemon as its own process, and the money check."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import anyio
import asyncpg
from anyio.abc import Process
from rich.console import Console

from poller.demo import world
from poller.demo.embedded import Server, postgres
from poller.demo.simulator import Simulator
from poller.demo.view import View
from poller.settings import environment

_LIMIT_S = 150.0
_LOOK_S = 0.5
_STOP_LIMIT_S = 40.0
_DAEMONS_UNDER_CHAOS = 3
_KILL_EVERY_S = 2.0
_SETTINGS = {
    "CUSTOM_PASS_POLL_INTERVAL": "1s",
    "CUSTOM_PASS_LEASE_TTL": "3s",
    "CUSTOM_PASS_RETRY_DELAY": "200ms",
    "CUSTOM_PASS_TASK_TIMEOUT": "3s",
    "CUSTOM_PASS_MAX_CONCURRENT": "20",
    "METRICS_HOST": "127.0.0.1",
    "METRICS_PORT": "0",
    "LOG_FORMAT": "text",
}
"""The demo's pace; all else is as by default."""


def main(tasks: int, profile: str, chaos: bool, keep: bool) -> int:
    """Run the demo; 0 when the money check holds, else 70."""
    return anyio.run(_demo, tasks, profile, chaos, keep)


def kept_folder() -> Path:
    """Where ``--keep`` leaves the data: the XDG state folder."""
    home = environment().get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(home) / "custompass-poller" / "demo"


async def _demo(tasks: int, profile: str, chaos: bool, keep: bool) -> int:
    console = Console(highlight=False)
    folder = kept_folder() if keep else None
    if folder is not None and (folder / "data").exists():
        console.print(f"{folder} holds the data of an earlier demo: remove it first")
        return os.EX_USAGE
    with postgres(keep=folder) as server, _terminable():
        simulator = Simulator(seed=tasks, is_chaotic=chaos)
        async with anyio.create_task_group() as group:
            url = await group.start(simulator.run)
            connection = await _seeded(server, profile, tasks, url, simulator)
            try:
                is_right = await _watched(console, server, connection, profile, chaos)
            finally:
                with anyio.CancelScope(shield=True):
                    await connection.close()
            if folder is not None:
                dsn = server.dsn("demo")
                console.print(f"kept in {folder}; look at it with: psql '{dsn}'  (Ctrl-C ends the server)")
                await anyio.sleep_forever()
            group.cancel_scope.cancel()
    return 0 if is_right else os.EX_SOFTWARE


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the demo the way Ctrl-C does, so that its server and folders go too."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


async def _seeded(
    server: Server, profile: str, tasks: int, url: str, simulator: Simulator
) -> asyncpg.Connection[asyncpg.Record]:
    admin = await asyncpg.connect(server.dsn())
    await admin.execute(world.script("sql", "common", "create_database.sql"))
    await admin.close()
    connection = await asyncpg.connect(server.dsn("demo"))

    def truth(upstream_id: str) -> world.Truth:
        fate = simulator.plan(upstream_id)
        prompt, completion = fate.usage or (0, 0)
        return world.Truth("SUCCESS" if fate.is_success else "FAILURE", prompt, completion)

    await world.make_gateway(connection, profile)
    await world.seed(connection, profile, tasks=tasks, upstream=url, truth=truth)
    return connection


async def _watched(
    console: Console, server: Server, connection: asyncpg.Connection[asyncpg.Record], profile: str, chaos: bool
) -> bool:
    """Let the daemon work while the view shows it; whether the money check holds in the end."""
    daemons = [await _started(server, number) for number in range(_DAEMONS_UNDER_CHAOS if chaos else 1)]
    kills = 0
    began_at = killed_at = anyio.current_time()
    try:
        with View(console, profile) as view:
            while True:
                now = anyio.current_time()
                progress = await world.progress(connection, profile)
                view.show(progress, elapsed_s=now - began_at, daemons=len(daemons), kills=kills)
                if progress.settled >= progress.tasks or now - began_at > _LIMIT_S:
                    break
                for number, daemon in enumerate(daemons):
                    if daemon.process.returncode is not None:
                        code = daemon.process.returncode
                        console.print(f"daemon {number} ended with {code}:\n{_tail(server, number)}")
                        return False
                if chaos and now - killed_at > _KILL_EVERY_S:
                    victim = random.randrange(len(daemons))
                    daemons[victim].process.kill()
                    await daemons[victim].process.wait()
                    daemons[victim] = await _started(server, victim)
                    kills, killed_at = kills + 1, anyio.current_time()
                await anyio.sleep(_LOOK_S)
        codes = await _stopped(daemons)
    finally:
        for daemon in daemons:
            if daemon.process.returncode is None:
                daemon.process.kill()
    findings = await world.check(connection, profile)
    findings.append(
        world.Finding("daemon stopped cleanly", not any(codes), "exit " + ", ".join(str(code) for code in codes))
    )
    view.report(findings)
    is_right = all(finding.is_ok for finding in findings)
    if not is_right:
        console.print(_tail(server, 0))
    return is_right


class _Daemon(NamedTuple):
    """The real daemon as a process that ends with this one; what it says begins at *said_from* in the log."""

    process: Process
    log: Path
    said_from: int

    async def has_started(self) -> None:
        """Wait until it takes signals: before that SIGTERM ends it the hard way, as it does any program."""
        while self.process.returncode is None and b"daemon_started" not in self.log.read_bytes()[self.said_from :]:  # noqa: ASYNC110
            await anyio.sleep(0.05)


async def _started(server: Server, number: int) -> _Daemon:
    leash = ["setpriv", "--pdeathsig", "KILL"] if sys.platform == "linux" else []
    path = _log(server, number)
    with path.open("ab") as log:
        process = await anyio.open_process(
            [*leash, sys.executable, "-m", "poller", "run"],
            stdin=None,
            stdout=log,
            stderr=log,
            env={**environment(), **_SETTINGS, "SQL_DSN": server.dsn("demo")},
            start_new_session=True,
        )
        return _Daemon(process, path, log.tell())


async def _stopped(daemons: list[_Daemon]) -> list[int]:
    with anyio.move_on_after(_STOP_LIMIT_S):
        for daemon in daemons:
            await daemon.has_started()
            daemon.process.send_signal(signal.SIGTERM)
        return [await daemon.process.wait() for daemon in daemons]
    return [-1]


def _log(server: Server, number: int) -> Path:
    return server.folder / f"daemon-{number}.log"


def _tail(server: Server, number: int) -> str:
    return _log(server, number).read_text(errors="replace")[-3000:]
