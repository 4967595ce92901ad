"""The daemon as a process: what it prints and serves holds no secret, and it ends as it is told to."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import anyio
import anyio.to_thread
import httpx
import pytest

from tests.cli.conftest import Run
from tests.conftest import MakeDatabase
from tests.leftovers import LEASH

CANARY = "hunter2canary"


def environ(dsn: str, **changes: str) -> dict[str, str]:
    settings = {
        "PATH": os.environ["PATH"],
        "SQL_DSN": dsn.replace("postgres@", f"postgres:{CANARY}@"),
        "CUSTOM_PASS_ADMIN_TOKEN": f"{CANARY}-token",
        "HTTPS_PROXY": f"http://u:{CANARY}@127.0.0.1:1",
        "CUSTOM_PASS_POLL_INTERVAL": "200ms",
        "LOG_LEVEL": "debug",
        "METRICS_HOST": "127.0.0.1",
        "METRICS_PORT": "0",
    }
    return settings | changes


def run_for_a_while(env: dict[str, str], paths: list[str]) -> tuple[int, str, dict[str, str]]:
    """Start the daemon, wait until it is ready, get *paths*, end it: exit code, all output, bodies by path."""
    command = [*LEASH, sys.executable, "-m", "poller", "run"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            printed = []
            for line in process.stdout:
                printed.append(line)
                if found := re.search(r'side_port_opened.*port["=: ]+(\d+)', line):
                    break
            else:
                pytest.fail("".join(printed))
            with httpx.Client(base_url=f"http://127.0.0.1:{found[1]}", trust_env=False, timeout=20) as client:
                while client.get("/startupz").status_code != 200:
                    assert process.poll() is None, "".join(printed) + process.stdout.read()
                bodies = {path: client.get(path).text for path in paths}
                bodies["/trigger"] = client.post("/trigger").text
            process.send_signal(signal.SIGTERM)
            rest = process.stdout.read()
            return process.wait(30), "".join(printed) + rest, bodies
        finally:
            process.kill()


@pytest.mark.parametrize("form", ["text", "json", "console"])
async def test_a_run_shows_no_secret_in_any_form_and_ends_with_0(make_database: MakeDatabase, form: str):
    dsn = await make_database("documented")
    paths = ["/metrics", "/readyz?verbose", "/status", "/healthz"]
    with anyio.fail_after(90):
        code, printed, bodies = await anyio.to_thread.run_sync(run_for_a_while, environ(dsn, LOG_FORMAT=form), paths)
    assert code == 0, printed
    assert "daemon_started" in printed
    assert "custompass_build_info" in bodies["/metrics"]
    assert "Bearer" in bodies["/trigger"]
    assert CANARY not in printed
    assert CANARY not in "".join(bodies.values())


async def ended(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "poller", *arguments]

    def wait() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)

    with anyio.fail_after(90):
        return await anyio.to_thread.run_sync(wait)


@pytest.mark.parametrize("option", ["--once", "--dry-run"])
async def test_a_one_shot_run_opens_no_side_port_and_exits(make_database: MakeDatabase, option: str):
    dsn = await make_database("fork")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ran = await ended("run", option, env=environ(dsn, METRICS_PORT=port))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert CANARY not in ran.stdout + ran.stderr


def test_signals_that_come_while_it_starts_end_no_daemon(poller: Run):
    """As when somebody asks for a poll at once, or reloads all services, right after a start."""
    numbers = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
    before = [signal.signal(number, signal.SIG_DFL) for number in numbers]
    try:
        assert poller("run", SQL_DSN="nonsense").code == 78
        assert {signal.getsignal(number) for number in numbers} == {signal.SIG_IGN}
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


async def test_a_taken_side_port_is_one_line_and_69(make_database: MakeDatabase):
    dsn = await make_database("main")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ran = await ended("run", env=environ(dsn, METRICS_PORT=port))
    assert ran.returncode == 69, ran.stdout + ran.stderr
    (line,) = ran.stderr.splitlines()
    assert line.startswith(f"poller: METRICS_PORT: cannot listen on 127.0.0.1 port {port}")


async def test_a_wrong_password_in_a_refused_connection_stays_hidden(tmp_path: Path):
    env = environ(f"postgresql://postgres@127.0.0.1:1/{tmp_path.name}?sslmode=disable")
    ran = await ended("run", "--once", env=env)
    assert ran.returncode == 69, ran.stdout + ran.stderr
    assert CANARY not in ran.stdout + ran.stderr
