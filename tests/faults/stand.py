"""A seeded gateway with witnesses, and the whole daemon in this very process: what crash points are tried on."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import anyio
import asyncpg

from poller import crashpoints, daemon
from poller.demo import world
from poller.demo.fates import Lives
from poller.demo.troubles import Trouble
from poller.ops.metrics import Metrics
from poller.ops.recorder import Recorder
from poller.settings import load
from tests.cache.server import needed
from tests.e2e.harness import truth_of, until, upstream
from tests.faults import checker
from tests.faults.outside import Outside
from tests.faults.proxy import Proxy
from tests.faults.upstream import PatientSimulator
from tests.ops.things import Lines

TASKS = 24
ABORTED = frozenset({"i16_nothing_left_behind"})
"""What a daemon that was not asked to stop leaves until its leases run out."""
_PACE = {
    "CUSTOM_PASS_POLL_INTERVAL": "100ms",
    "CUSTOM_PASS_LEASE_TTL": "1s",
    "CUSTOM_PASS_TASK_TIMEOUT": "2s",
    "CUSTOM_PASS_BATCH_SIZE": "5",
    "CUSTOM_PASS_DB_MAX_OPEN_CONNS": "4",
    "ENABLE_METRICS": "false",
    "LOG_FORMAT": "text",
}


@dataclass
class Stand:
    """One gateway with open tasks; daemons reach its database through *proxy*, what else it has through *outside*."""

    profile: str
    dsn: str
    proxy: Proxy
    outside: Outside
    settings: dict[str, str]

    async def fetch(self, query: str) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.dsn, server_settings={"application_name": "rig"})
        try:
            return await connection.fetch(query)
        finally:
            await connection.close()

    async def is_drained(self) -> bool:
        # What a daemon had claimed that is no more would be free in a minute.
        await self.fetch(checker.FREE_CLAIMS)
        return not await self.fetch(checker.unfinished())

    async def is_walking(self) -> bool:
        """Whether every lane has a holder."""
        (row,) = await self.fetch("SELECT count(*) = 4 AS are_held FROM poller.lane WHERE holder IS NOT NULL")
        return bool(row["are_held"])

    async def violations(self, *, without: frozenset[str] = frozenset()) -> list[checker.Violation]:
        connection = await asyncpg.connect(self.dsn, server_settings={"application_name": "rig"})
        try:
            await self.outside.testify(connection, self.dsn)
            return await checker.violations(connection, without=ABORTED | without)
        finally:
            await connection.close()

    def end_sessions(self) -> None:
        """Terminate every session of ours, from a thread of its own: the caller stands inside of one."""

        async def end() -> None:
            await self.fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name LIKE 'poller/%' AND datname = current_database()"
            )

        thread = threading.Thread(target=asyncio.run, args=(end(),))
        thread.start()
        thread.join()

    async def settle_all(self, helpers: int, watcher: Callable[[str, Callable[[], None]], None], is_over) -> None:  # type: ignore[no-untyped-def]
        """Run a daemon in this process until *is_over* and nothing is open; one that ends is started again.

        *helpers* more come once it holds all lanes, and want theirs. *watcher* is called at every label, with a way to
        cancel the daemons as a whole.
        """
        found = load(self.settings).settings
        scopes: set[anyio.CancelScope] = set()

        def cancel() -> None:
            for scope in list(scopes):
                scope.cancel()

        async def keep_one() -> None:
            while True:
                with anyio.CancelScope() as scope:
                    scopes.add(scope)
                    await daemon.run(found, Recorder(Metrics(), Lines()))  # type: ignore[arg-type]
                scopes.discard(scope)

        crashpoints.watch(lambda label: watcher(label, cancel))
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(keep_one)
                if helpers:
                    await until(self.is_walking)
                for _ in range(helpers):
                    group.start_soon(keep_one)
                await until(is_over, limit_s=60)
                await until(self.is_drained, limit_s=60)
                group.cancel_scope.cancel()
        finally:
            crashpoints.watch(None)


@contextlib.asynccontextmanager
async def stand(
    dsn: str, socket: Path, profile: str, circumstance: str = "", *, shortest_s: float = 0.05, tasks: int = TASKS
) -> AsyncIterator[Stand]:
    """A seeded stand on the empty database *dsn*, whose server listens on *socket*; used inside of a test.

    Tasks take *shortest_s* at upstream and up to 0.8 s more, from when they are first asked about.
    """
    if circumstance == "redis":
        needed()
    lives = Lives(seed=3, shortest_s=shortest_s, typical_s=0.2, longest_s=shortest_s + 0.8)
    odd = Trouble(unknown_word=0.5, not_found=0.5, heals_after_s=1.5)
    troubles = {f"/ch{n}": odd for n in (1, 2, 3, 4)} if circumstance in ("trouble", "not_found") else {}
    keys = {f"/ch{n}": f"demo-key-{n}" for n in (1, 2, 3, 4)} if circumstance == "keys" else None
    simulator = PatientSimulator(lives=lives, troubles=troubles, keys=keys)
    proxy = Proxy(lambda: socket)
    outside = Outside(profile, frozenset({circumstance}), lambda: socket, refusals=1)
    await proxy.start()
    try:
        async with upstream(simulator) as url:
            connection = await asyncpg.connect(dsn, server_settings={"application_name": "rig"})
            await world.seed(connection, profile, tasks=tasks, upstream=url, truth=truth_of(simulator))
            if keys:
                await connection.execute(checker.SECOND_KEY)
            await checker.install(connection, profile)
            await outside.open(connection, dsn)
            if circumstance:
                await connection.execute("INSERT INTO inv.rule VALUES ($1)", circumstance)
            if circumstance == "deletions":
                await connection.execute("DELETE FROM users WHERE id IN (5, 6, 7)")
            await connection.close()
            name = dsn.split("@/")[1].split("?")[0]
            settings = {**_PACE, "SQL_DSN": f"postgresql://postgres@127.0.0.1:{proxy.port}/{name}?sslmode=disable"}
            settings |= outside.settings()
            if circumstance == "hold":
                settings["CUSTOM_PASS_DEADLINE_POLICY"] = "hold"
            if circumstance == "not_found":
                settings["CUSTOM_PASS_STATUS_FAILED"] = "failed,error,cancelled,not_found"
            yield Stand(profile, dsn, proxy, outside, settings)
    finally:
        await proxy.close()
        await outside.close()
        connection = await asyncpg.connect(dsn)
        await outside.drop(connection)
        await connection.close()
