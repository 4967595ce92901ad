"""What ``poller reconcile`` needs for many rows: ``python -m tests.benchmarks.reconcile [--rows N]``.

Looks at N finished tasks and the refunds of nine in ten of them, then at a tenth of that, on the same machine in the
same minutes: memory of the command shall not follow the number of rows.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import subprocess
import sys
import time

import anyio
import asyncpg

from poller.demo.embedded import Server, postgres
from poller.demo.world import make_gateway
from tests.cli.test_reconcile import MEASURED, history
from tests.e2e.harness import clean_environment


async def seed(server: Server, name: str, profile: str, rows: int) -> str:
    """The DSN of a new database *name* with *rows* finished tasks, schema ``poller`` included."""
    owner = await asyncpg.connect(server.dsn())
    await owner.execute(f"CREATE DATABASE {name}")
    await owner.close()
    dsn = server.dsn(name)
    connection = await asyncpg.connect(dsn)
    await make_gateway(connection, profile)
    await connection.close()
    migrate = [sys.executable, "-m", "poller", "migrate"]
    await anyio.run_process(migrate, env={**clean_environment(), "SQL_DSN": dsn})
    await history(dsn, profile, rows)
    return dsn


def look(dsn: str) -> tuple[float, int]:
    """Seconds and peak KiB of one ``reconcile --json``."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", MEASURED],
        env={**clean_environment(), "SQL_DSN": dsn},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    return time.monotonic() - began, int(done.stderr.rsplit("peak=", 1)[1])


async def measure(rows: int, profile: str) -> None:
    print(f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores, profile {profile}")
    peaks = []
    with postgres(shared_buffers="1GB") as server:
        for count in (rows // 10, rows):
            dsn = await seed(server, f"rows_{count}", profile, count)
            took_s, peak = await asyncio.to_thread(look, dsn)
            peaks.append(peak)
            print(f"{count:>12,} tasks  {took_s:8.1f} s  {count / took_s:10,.0f} tasks/s  peak {peak / 1024:.0f} MiB")
    print(f"peak memory, ten times the rows ÷ one time  {peaks[1] / peaks[0]:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--profile", choices=["documented", "fork", "main"], default="main")
    given = parser.parse_args()
    asyncio.run(measure(given.rows, given.profile))
