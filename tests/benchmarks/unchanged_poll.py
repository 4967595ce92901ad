"""What a poll that changes nothing costs: ``python -m tests.benchmarks.unchanged_poll [--tasks N] [--seconds S]``.

Counts (WAL, row versions) do not depend on the load of the machine; CPU a poll is that of the whole daemon process.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg

from poller.demo.embedded import postgres
from poller.demo.world import make_gateway
from tests.e2e.harness import PACE, clean_environment

_CHANNELS = 20
_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def rss_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


@contextlib.contextmanager
def process(*arguments: str, **options: object) -> Iterator[subprocess.Popen[str]]:
    started = subprocess.Popen([sys.executable, *arguments], text=True, **options)  # type: ignore[call-overload]
    try:
        yield started
    finally:
        started.kill()
        started.wait(10)


async def seed(dsn: str, tasks: int, port: int) -> None:
    connection = await asyncpg.connect(dsn)
    await make_gateway(connection, "main")
    await connection.execute(
        "INSERT INTO users (id, username, quota) SELECT i, 'u' || i, 1000000 FROM generate_series(1, 1000) i"
    )
    await connection.execute(
        f"INSERT INTO channels (id, type, key, base_url) "
        f"SELECT i, 53, 'key', 'http://127.0.0.1:{port}/ch' || i FROM generate_series(1, {_CHANNELS}) i"
    )
    await connection.execute(
        f"""INSERT INTO tasks (id, task_id, platform, user_id, channel_id, action, status, progress, quota,
               submit_time, created_at, updated_at, start_time, finish_time, properties, private_data)
        SELECT i, 'task_' || i, 'custompass', i % 1000 + 1, i % {_CHANNELS} + 1, 'generate', 'IN_PROGRESS', '50%', 1000,
               extract(epoch FROM now())::bigint, 0, 0, 0, 0,
               '{{"upstream_model_name": "m/submit", "origin_model_name": "m/submit"}}',
               json_build_object('upstream_task_id', 'up-' || i, 'token_id', 1)
        FROM generate_series(1, {tasks}) i"""
    )
    await connection.execute("ANALYZE; CHECKPOINT")
    await connection.close()


async def figures(dsn: str) -> tuple[int, int, int]:
    """WAL position in bytes, row versions written to the gateway's tables, passes that ended."""
    connection = await asyncpg.connect(dsn)
    try:
        wal = await connection.fetchval("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
        written = await connection.fetchval(
            "SELECT sum(n_tup_upd + n_tup_ins + n_tup_del) FROM pg_stat_user_tables WHERE schemaname = 'public'"
        )
        asked = await connection.fetchval("SELECT coalesce(sum((pass_counts->>'asked')::bigint), 0) FROM poller.lane")
        return int(wal), int(written), int(asked)
    finally:
        await connection.close()


async def measure(tasks: int, seconds: float) -> None:
    print(f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores")
    print(f"{tasks} tasks, {_CHANNELS} channels")
    with (
        postgres(shared_buffers="1GB") as server,
        process("-m", "tests.benchmarks.fast_upstream", stdout=subprocess.PIPE) as up,
    ):
        assert up.stdout is not None
        dsn = server.dsn()
        await seed(dsn, tasks, int(up.stdout.readline()))
        with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("wb") as log:
            settings = {**PACE, "CUSTOM_PASS_POLL_INTERVAL": "100ms", "CUSTOM_PASS_LEASE_TTL": "15s", "SQL_DSN": dsn}
            with process(
                "-m", "poller", "run", stdout=log, stderr=log, env={**clean_environment(), **settings}
            ) as daemon:
                await asyncio.sleep(8)
                before, cpu_before, began = await polls(daemon.pid, folder), cpu_s(daemon.pid), time.monotonic()
                _, written_before, _ = await figures(dsn)
                await asyncio.sleep(seconds)
                after, cpu_after, took_s = await polls(daemon.pid, folder), cpu_s(daemon.pid), time.monotonic() - began
                _, written_after, _ = await figures(dsn)
                count = after - before
                print(f"polls/s                      {count / took_s:,.0f}")
                print(f"daemon CPU a poll            {(cpu_after - cpu_before) / count * 1e6:.1f} µs")
                print(f"gateway row versions written {written_after - written_before}")
                print(f"daemon memory                {rss_mb(daemon.pid):.0f} MB")


async def polls(pid: int, folder: str) -> float:
    """Ids asked about so far, as the daemon's own counter says."""
    import urllib.request

    lines = (Path(folder) / "log").read_text().splitlines()
    port = next(line for line in lines if "side_port_opened" in line).split("port=")[1].split()[0]
    text = await asyncio.to_thread(lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode())
    return sum(
        float(line.split()[-1]) for line in text.splitlines() if line.startswith("custompass_asked_tasks_total{")
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=15.0)
    given = parser.parse_args()
    asyncio.run(measure(given.tasks, given.seconds))
