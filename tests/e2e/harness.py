"""The real daemon as a process, a real upstream on loopback and a seeded gateway: what end-to-end tests start from."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path

import anyio
import asyncpg

from poller.demo import world
from poller.demo.fates import Lives
from poller.demo.simulator import Simulator

LIMIT_S = 90.0
"""Generous: a wait that needs this long has failed."""

PACE = {
    "CUSTOM_PASS_POLL_INTERVAL": "1s",
    "CUSTOM_PASS_LEASE_TTL": "3s",
    "CUSTOM_PASS_RETRY_DELAY": "100ms",
    "CUSTOM_PASS_TASK_TIMEOUT": "2s",
    "METRICS_HOST": "127.0.0.1",
    "METRICS_PORT": "0",
    "LOG_FORMAT": "text",
}
QUICK = Lives(seed=3, shortest_s=0.2, typical_s=0.6, longest_s=2.0)


def clean_environment() -> dict[str, str]:
    """The environment without any setting of the daemon that this machine may hold."""
    mine = (
        "CUSTOM_PASS_",
        "SQL_",
        "LOG_",
        "METRICS_",
        "ENABLE_",
        "REDIS_",
        "DATABASE_URL",
        "HTTP_PROXY",
        "HTTPS_PROXY",
    )
    return {name: value for name, value in os.environ.items() if not name.upper().startswith(mine)}


class Daemon:
    """One ``poller`` process; it ends with the test run, also when that is killed."""

    def __init__(self, dsn: str, log: Path, settings: Mapping[str, str], arguments: tuple[str, ...] = ("run",)) -> None:
        self.log = log
        leash = ["setpriv", "--pdeathsig", "KILL"] if sys.platform == "linux" else []
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [*leash, sys.executable, "-m", "poller", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**clean_environment(), "SQL_DSN": dsn, **PACE, **settings},
            )

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    async def ended(self, limit_s: float = LIMIT_S) -> int:
        with anyio.fail_after(limit_s):
            while (code := self.process.poll()) is None:
                await anyio.sleep(0.02)
        return code

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    async def says(self, text: str, limit_s: float = LIMIT_S) -> None:
        """Wait until *text* stands in the log."""
        with anyio.fail_after(limit_s):
            while text not in self.said():
                assert self.process.poll() is None, f"ended before it said {text!r}:\n{self.said()[-3000:]}"
                await anyio.sleep(0.02)

    async def port(self) -> int:
        await self.says("side_port_opened")
        line = next(line for line in self.said().splitlines() if "side_port_opened" in line)
        return int(line.split("port=")[1].split()[0])

    async def get(self, path: str) -> tuple[int, str]:
        """Status and body of a GET at the side port."""
        url = f"http://127.0.0.1:{await self.port()}{path}"
        return await anyio.to_thread.run_sync(_get, url)


def _get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@contextlib.asynccontextmanager
async def upstream(simulator: Simulator) -> AsyncIterator[str]:
    """Serve *simulator*; yields its base URL. Used inside a test, never across a fixture's yield."""
    async with anyio.create_task_group() as group:
        yield await group.start(simulator.run)
        group.cancel_scope.cancel()


def truth_of(simulator: Simulator) -> Callable[[str], world.Truth]:
    def truth(upstream_id: str) -> world.Truth:
        fate = simulator.plan(upstream_id)
        prompt, completion = fate.usage or (0, 0)
        return world.Truth("SUCCESS" if fate.is_success else "FAILURE", prompt, completion)

    return truth


async def seeded(dsn: str, profile: str, tasks: int, url: str, simulator: Simulator) -> None:
    """Tasks in a database that has the gateway's tables already."""
    connection = await asyncpg.connect(dsn)
    try:
        await world.seed(connection, profile, tasks=tasks, upstream=url, truth=truth_of(simulator))
    finally:
        await connection.close()


async def assert_money_is_right(dsn: str, profile: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        wrong = [finding for finding in await world.check(connection, profile) if not finding.is_ok]
    finally:
        await connection.close()
    assert not wrong


async def fetchval(dsn: str, query: str, *args: object) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query, *args)
    finally:
        await connection.close()


async def settled(dsn: str) -> int:
    try:
        return int(str(await fetchval(dsn, "SELECT count(*) FROM poller.ledger")))
    except asyncpg.UndefinedTableError:
        return 0


_watched: list[Daemon] = []


async def until(condition: Callable[[], Awaitable[bool]], *, limit_s: float = LIMIT_S) -> None:
    """Wait for *condition* to hold, unless a daemon of the test gives up by itself before."""
    with anyio.fail_after(limit_s):
        while not await condition():
            for daemon in _watched:
                code = daemon.process.poll()
                assert code is None or code <= 0, f"a daemon ended with {code} meanwhile"
            await anyio.sleep(0.05)


@contextlib.contextmanager
def ending(*daemons: Daemon) -> Iterator[None]:
    """Kill what still runs when the test is over; a failure tells what each of them said last."""
    _watched.extend(daemons)
    try:
        yield
    except BaseException as failure:
        for daemon in daemons:
            failure.add_note(f"exit {daemon.process.poll()}, said last:\n{daemon.said()[-1500:]}")
        raise
    finally:
        for daemon in daemons:
            _watched.remove(daemon)
            daemon.kill()


TERM, KILL, USR1, HUP = signal.SIGTERM, signal.SIGKILL, signal.SIGUSR1, signal.SIGHUP
