"""Daemons that have little: few file descriptors, no place to write, no elbow room."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import anyio
import pytest

from tests.e2e.harness import clean_environment, until
from tests.faults.nursery import ROOT
from tests.faults.stand import Stand, stand
from tests.leftovers import LEASH

LIMIT_S = 120
REPLICAS = 20


async def assert_settles(command: list[str], settings: Mapping[str, str], at: Stand, log: Path) -> None:
    """A daemon started by *command* settles all that there is, and ends well when it is told to."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*LEASH, *command, sys.executable, "-m", "poller", "run"],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={**clean_environment(), "PYTHONDONTWRITEBYTECODE": "1", **settings},
        )
    try:
        await until(at.is_drained, limit_s=60)
        process.send_signal(signal.SIGTERM)
        assert await anyio.to_thread.run_sync(process.wait, 30) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
    assert [str(each) for each in await at.violations()] == []


async def test_a_daemon_with_few_file_descriptors_settles_everything(make_database, pg_server, tmp_path):
    if shutil.which("prlimit") is None:
        pytest.skip("no prlimit here")
    dsn = await make_database("main")
    with anyio.fail_after(LIMIT_S):
        async with stand(dsn, pg_server.folder / f".s.PGSQL.{pg_server.port}", "main") as at:
            await assert_settles(["prlimit", "--nofile=64"], at.settings, at, tmp_path / "log")


async def test_a_daemon_that_may_write_no_file_settles_everything(make_database, pg_server, tmp_path):
    hide = ["unshare", "--mount", "sh", "-c", 'mount -o remount,ro,bind / && exec "$@"', "sh"]
    written = tmp_path / "written"
    if os.geteuid() != 0 or subprocess.run([*hide, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a read-only root takes root")
    assert subprocess.run([*hide, "touch", written], capture_output=True, check=False).returncode
    dsn = await make_database("fork")
    with anyio.fail_after(LIMIT_S):
        async with stand(dsn, pg_server.folder / f".s.PGSQL.{pg_server.port}", "fork") as at:
            await assert_settles(hide, at.settings, at, tmp_path / "log")


async def test_twenty_replicas_that_start_at_once_settle_each_task_once(make_database, pg_server, nursery, tmp_path):
    dsn = await make_database("documented")
    with anyio.fail_after(LIMIT_S):
        socket = pg_server.folder / f".s.PGSQL.{pg_server.port}"
        async with nursery.attached(), stand(dsn, socket, "documented") as at:
            replicas = [
                await nursery.spawn(at.settings | {"CUSTOM_PASS_DB_MAX_OPEN_CONNS": "2"}, tmp_path / f"{n}.log")
                for n in range(REPLICAS)
            ]
            await until(at.is_drained, limit_s=60)
            for replica in replicas:
                await replica.says("daemon_started")
                replica.signal(signal.SIGTERM)
            assert [await replica.ended() for replica in replicas] == [0] * REPLICAS
            assert [str(each) for each in await at.violations()] == []
