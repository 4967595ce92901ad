"""The daemon over a long time, with ten sound channels and ten that go wrong in every way, at random and by turns.

``python -m tests.soak --minutes 10`` runs it and prints what came of it; the suite has a form of 20 seconds. The daemon
is a process of its own. Five of the bad channels have an upstream that talks nonsense, five a line that breaks. In the
last part all heal. Then every task must be settled, to the unit as upstream really had it; memory and open files must
have stayed flat, and the sound channels must not have noticed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import asyncpg

from poller.demo import world
from poller.demo.embedded import postgres
from poller.demo.fates import Lives
from poller.demo.simulator import Simulator
from poller.demo.troubles import Trouble
from tests.e2e.harness import PACE, TERM, USR1, Daemon, seeded, upstream

SOUND, BABBLING, BREAKING = range(1, 11), range(11, 16), range(16, 21)
INTERVAL_S = 1.0
HEALING = 0.8
"""Share of the time after which all upstreams are sound."""
DRAIN_S = 90.0
SETTINGS = {
    **PACE,
    "CUSTOM_PASS_POLL_INTERVAL": f"{INTERVAL_S}s",
    "CUSTOM_PASS_MAX_CONCURRENT": "60",
    "CUSTOM_PASS_BATCH_SIZE": "20",
    "SYNC_FREQUENCY": "2s",
}

TROUBLES: dict[str, Callable[[float], Trouble]] = {
    "hangs": lambda share: Trouble(hanging=share),
    "drips": lambda share: Trouble(dripping=share),
    "fails": lambda share: Trouble(failing=share),
    "babbles": lambda share: Trouble(babbling=share),
    "is slow": lambda share: Trouble(slow_s=3 * share),
    "is dead": lambda share: Trouble(failing=1.0),
    "is deaf": lambda share: Trouble(hanging=1.0),
    "lies": lambda share: Trouble(strange=share, doubled=share / 2, unreadable=share / 2),
    "forgets": lambda share: Trouble(absent=share, not_found=share / 2, unknown_word=share / 2),
    "is sound": lambda share: Trouble(),
}
BREAKS = ("is sound", "resets", "cuts", "stalls", "refuses", "is thin")


class Line:
    """A TCP line to the upstream that breaks as *mode* says."""

    def __init__(self, target: int, chance: random.Random) -> None:
        self.mode = "is sound"
        self.port = 0
        self._target = target
        self._chance = chance
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            self.port = server.sockets[0].getsockname()[1]
            yield self.port
        finally:
            server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            if self.mode != "refuses":
                far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
                try:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(self._pump(reader, far_writer, is_answer=False))
                        group.create_task(self._pump(far_reader, writer, is_answer=True))
                except* OSError:
                    pass
                finally:
                    far_writer.close()
        self._tasks.discard(task)
        writer.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, is_answer: bool) -> None:
        while part := await source.read(65536):
            if is_answer and self.mode != "is sound" and self._chance.random() < 0.5:
                if self.mode == "stalls":
                    await asyncio.sleep(3600)
                elif self.mode == "is thin":
                    await asyncio.sleep(self._chance.random())
                else:
                    sink.write(part[: len(part) // 2])
                    await sink.drain()
                    raise ConnectionResetError
            sink.write(part)
            await sink.drain()
        sink.close()


@dataclasses.dataclass
class Report:
    """What a soak came to."""

    seconds: float
    tasks: int
    requests: int = 0
    faults: Counter[str] = dataclasses.field(default_factory=Counter)
    sound_lags: list[float] = dataclasses.field(default_factory=list)
    bad_lags: list[float] = dataclasses.field(default_factory=list)
    memory_mb: list[float] = dataclasses.field(default_factory=list)
    files: list[int] = dataclasses.field(default_factory=list)
    wrong: list[str] = dataclasses.field(default_factory=list)
    """Lines of the money check that do not hold."""
    exit_code: int | None = None
    crashes: int = 0
    """Times that the daemon said of itself that something crashed."""

    def memory_growth_mb(self) -> float:
        """Between the second and the last fifth of the time: what comes before is warming up."""
        fifth = max(1, len(self.memory_mb) // 5)
        return statistics.median(self.memory_mb[-fifth:]) - statistics.median(self.memory_mb[fifth : 2 * fifth])

    def complaints(self, spare_s: float = 2.0) -> list[str]:
        """What is not as it must be; empty for a good run. *spare_s* is what a busy machine may add to a lag."""
        found = [f"money: {line}" for line in self.wrong]
        if self.exit_code != 0:
            found.append(f"exit code {self.exit_code}")
        if self.crashes:
            found.append(f"{self.crashes} crashes in the log")
        if self.memory_growth_mb() > 16:
            found.append(f"memory grew by {self.memory_growth_mb():.1f} MB")
        if max(self.files) > 400:
            found.append(f"{max(self.files)} open files")
        # An interval to be asked in, and one for a pass that began just before.
        if percentile(self.sound_lags, 95) > 2 * INTERVAL_S + spare_s:
            found.append(f"sound channels lag {percentile(self.sound_lags, 95):.2f} s")
        return found

    def __str__(self) -> str:
        def lags(name: str, values: list[float]) -> str:
            shown = ", ".join(f"p{part} {percentile(values, part):.2f} s" for part in (50, 95, 99))
            return f"{name}: {len(values)} settled, {shown}, max {max(values, default=0):.2f} s"

        memory, files = self.memory_mb, self.files
        return "\n".join(
            [
                f"{self.seconds:.0f} s, {self.tasks} tasks on 20 channels, {self.requests} requests answered,"
                f" {sum(self.faults.values())} faults set: {dict(self.faults)}",
                lags("lag of sound channels", self.sound_lags),
                lags("lag of bad channels", self.bad_lags),
                f"memory MB: {memory[0]:.1f} first, {max(memory):.1f} most, {memory[-1]:.1f} last,"
                f" {self.memory_growth_mb():+.1f} over time; open files: {max(files)} most, {files[-1]} last",
                f"exit code {self.exit_code}, {self.crashes} crashes, money {self.wrong or 'exact'}",
            ]
        )


def percentile(values: list[float], part: int) -> float:
    return sorted(values)[min(len(values) - 1, len(values) * part // 100)] if values else 0.0


async def soak(dsn: str, log: Path, *, seconds: float, tasks: int, seed: int = 1) -> Report:
    """Run the daemon on the bare gateway database *dsn* for *seconds*, and until all is settled."""
    chance = random.Random(seed)
    report = Report(seconds, tasks)
    lives = Lives(seed=seed, shortest_s=1.0, typical_s=seconds / 3, longest_s=seconds * HEALING)
    simulator = Simulator(seed=seed, lives=lives)
    async with contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(upstream(simulator))
        target = int(url.rpartition(":")[2])
        lines = [Line(target, chance) for _ in BREAKING]
        ports = [await stack.enter_async_context(line.open()) for line in lines]
        await seeded(dsn, "main", tasks, url, simulator)
        connection = await asyncpg.connect(dsn)
        stack.push_async_callback(connection.close)
        await spread(connection, url, [f"http://127.0.0.1:{port}" for port in ports])
        daemon = Daemon(dsn, log, SETTINGS)
        try:
            began = time.time()
            await daemon.says("database_opened")
            async with anyio.create_task_group() as group:
                group.start_soon(watch, daemon, report)
                await trouble(simulator, lines, chance, seconds * HEALING, report)
                await anyio.sleep(seconds * (1 - HEALING))
                daemon.signal(USR1)
                with anyio.move_on_after(DRAIN_S):
                    while await connection.fetchval("SELECT count(*) FROM poller.ledger") < tasks:
                        await anyio.sleep(0.5)
                group.cancel_scope.cancel()
            daemon.signal(TERM)
            report.exit_code = await daemon.ended()
        finally:
            daemon.kill()
        await reckon(connection, simulator, began, report)
        report.requests = simulator.requests
        report.crashes = sum(daemon.said().count(name) for name in ("lane_failed", "batch_failed", "task_failed"))
    return report


async def spread(connection: asyncpg.Connection[asyncpg.Record], url: str, lines: list[str]) -> None:
    """Twenty channels instead of four, the last five behind *lines*; the books of the check follow."""
    bases = [f"{url}/ch{number}" for number in (*SOUND, *BABBLING)]
    bases += [f"{line}/ch{number}" for line, number in zip(lines, BREAKING, strict=True)]
    await connection.execute(
        """INSERT INTO channels (id, type, name, key, base_url)
        SELECT i, 53, 'more-' || i, 'demo-key-' || i, '' FROM generate_series(5, 20) AS i"""
    )
    for number, base in enumerate(bases, 1):
        await connection.execute("UPDATE channels SET base_url = $2 WHERE id = $1", number, base)
    for table in ("tasks", "demo.tasks0"):
        await connection.execute(f"UPDATE {table} SET channel_id = id % 20 + 1")
    await connection.execute(
        """UPDATE channels AS c SET used_quota = s.reserved
        FROM (SELECT channel_id, sum(quota) AS reserved FROM tasks GROUP BY 1) AS s WHERE s.channel_id = c.id"""
    )
    await connection.execute("TRUNCATE demo.channels0")
    await connection.execute("INSERT INTO demo.channels0 SELECT * FROM channels")


async def trouble(
    simulator: Simulator, lines: list[Line], chance: random.Random, seconds: float, report: Report
) -> None:
    """Give the bad channels one trouble after the other for *seconds*; then heal them all."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if chance.random() < 0.5:
            name = chance.choice(list(TROUBLES))
            simulator.troubles[f"/ch{chance.choice(BABBLING)}"] = TROUBLES[name](chance.random())
        else:
            name = chance.choice(BREAKS)
            chance.choice(lines).mode = name
        report.faults[name] += 1
        await anyio.sleep(min(chance.random() * 2, max(0.0, ends - time.monotonic())))
    simulator.troubles.clear()
    for line in lines:
        line.mode = "is sound"


async def watch(daemon: Daemon, report: Report) -> None:
    """Memory and open files of the daemon, once a second."""
    folder = Path(f"/proc/{daemon.process.pid}")
    while daemon.process.poll() is None:
        with contextlib.suppress(OSError):
            report.memory_mb.append(int((folder / "statm").read_text().split()[1]) * 4096 / 2**20)
            report.files.append(len(list((folder / "fd").iterdir())))
        await anyio.sleep(1)


async def reckon(
    connection: asyncpg.Connection[asyncpg.Record], simulator: Simulator, began: float, report: Report
) -> None:
    """Check the money, and measure how long after its real end each task was settled."""
    report.wrong = [f"{line.name}: {line.detail}" for line in await world.check(connection, "main") if not line.is_ok]
    rows = await connection.fetch(
        """SELECT l.channel_id, t.private_data->>'upstream_task_id' AS upstream_id,
            extract(epoch FROM l.settled_at)::float8 AS settled_s
        FROM poller.ledger AS l JOIN tasks AS t ON t.id = l.task_pk"""
    )
    for row in rows:
        if row["upstream_id"].startswith("lost-"):
            continue
        lag_s = row["settled_s"] - max(simulator.plan(row["upstream_id"]).finishes_s, began)
        (report.sound_lags if row["channel_id"] in SOUND else report.bad_lags).append(lag_s)


async def alone(minutes: float, tasks: int, seed: int) -> Report:
    """A soak on a PostgreSQL of its own."""
    with postgres() as server, tempfile.TemporaryDirectory() as folder:
        admin = await asyncpg.connect(server.dsn())
        await admin.execute("CREATE DATABASE soak")
        await admin.close()
        connection = await asyncpg.connect(server.dsn("soak"))
        await world.make_gateway(connection, "main")
        await connection.close()
        return await soak(server.dsn("soak"), Path(folder) / "log", seconds=minutes * 60, tasks=tasks, seed=seed)


def main() -> int:
    """The command; 0 for a good run."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    wanted = parser.parse_args()
    print(f"seed {wanted.seed}", flush=True)
    report = anyio.run(alone, wanted.minutes, wanted.tasks, wanted.seed)
    print(report)
    for complaint in report.complaints():
        print(f"NOT GOOD: {complaint}")
    return 1 if report.complaints() else 0


if __name__ == "__main__":
    sys.exit(main())
