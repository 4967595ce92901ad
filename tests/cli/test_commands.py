from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import anyio
import anyio.to_thread
import asyncpg
import httpx
import pytest

from poller.cli import _MODULES
from poller.errors import DatabaseAway, Incomplete, Misconfigured, NotPermitted, Unavailable
from tests.cli.conftest import Run
from tests.conftest import MakeDatabase
from tests.leftovers import LEASH
from tests.ops.test_server import Console, side_port
from tests.ports import free_port

CANARY = "hunter2canary"


def test_version_is_quick_because_nothing_heavy_is_imported():
    heavy = {
        "aiohttp",
        "asyncpg",
        "httpx",
        "msgspec",
        "prometheus_client",
        "pydantic",
        "rich",
        "starlette",
        "structlog",
    }
    code = f"import sys; from poller.__main__ import execute; execute(['--version']); print({heavy} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"poller \d+\.\d+\.\d+ \(Python .+\)\nset\(\)\n", ran.stdout)


@pytest.mark.parametrize("name", sorted(_MODULES))
def test_every_command_explains_itself(poller: Run, name: str):
    ran = poller(name, "--help")
    assert ran.code == 0
    assert ran.out.startswith(f"Usage: poller {name} ")


def test_help_lists_every_command(poller: Run):
    ran = poller("--help")
    assert ran.code == 0
    assert all(f"  {name} " in ran.out for name in _MODULES)


@pytest.mark.parametrize(
    "arguments",
    [(), ("nonsense",), ("run", "--nonsense"), ("pause", "x"), ("healthcheck", "x"), ("migrate", "--profile", "fork")],
)
def test_wrong_usage_exits_with_64(poller: Run, arguments: tuple[str, ...]):
    ran = poller(*arguments)
    assert ran.code == 64
    assert "Usage: poller" in ran.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("chek",), "No such command 'chek'. Did you mean 'check'?"),
        (("pause", "abc"), "'abc' is not a valid whole number."),
        (("simulate", "--speed", "abc"), "'abc' is not a valid number."),
        (("tasks", "requeue", "abc", "--all"), "--all and --yes go with --set-ledger-aside"),
        (("tasks", "requeue", "abc", "--all", "--set-ledger-aside"), "say the IDs or --all, not both"),
        (("tasks", "requeue", "--set-ledger-aside"), "say the IDs, or --all"),
        (("tasks", "requeue"), "say the IDs"),
    ],
)
def test_a_slip_is_answered_with_what_was_wrong_with_it(poller: Run, arguments: tuple[str, ...], said: str):
    ran = poller(*arguments, SQL_DSN="postgres://nowhere:1/x")
    assert ran.code == 64
    assert ran.err.splitlines()[-1].endswith(f": {said}")


def test_what_resembles_no_command_gets_no_suggestion(poller: Run):
    assert "Did you mean" not in poller("xyzzy").err


@pytest.mark.parametrize("command", [("run",), ("run", "--once"), ("migrate",), ("pause",), ("resume", "3")])
def test_without_a_database_in_the_settings_a_command_exits_with_78_and_points_to_the_demo(
    poller: Run, command: tuple[str, ...]
):
    ran = poller(*command)
    assert ran.code == 78
    assert ran.out == ""
    assert "poller demo" in ran.err
    assert all(line.startswith("poller: ") for line in ran.err.splitlines())


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Misconfigured("a", "b"), 78),
        (Unavailable("x"), 69),
        (DatabaseAway("network"), 69),
        (NotPermitted("x"), 77),
        (Incomplete("x"), 75),
        (ExceptionGroup("g", [Unavailable("x")]), 69),
        (ValueError("x"), 70),
        (ExceptionGroup("g", [Unavailable("x"), ValueError("x")]), 70),
        (KeyboardInterrupt(), 130),
    ],
)
def test_each_error_has_its_exit_code(poller: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int):
    def fail() -> None:
        raise error

    monkeypatch.setattr("poller.cli.check.check.callback", lambda as_json: fail())
    ran = poller("check")
    assert ran.code == code
    assert ("this is a bug" in ran.err) is (code == 70)


def test_a_bug_shows_a_traceback_without_locals_and_without_secrets(poller: Run, monkeypatch: pytest.MonkeyPatch):
    def fail(as_json: bool) -> None:
        from poller.cli.reading import read_settings

        dsn = read_settings().settings.sql_dsn
        assert dsn is not None
        hidden = dsn.reveal()
        raise ValueError(f"could not use {hidden} nor {CANARY}")

    monkeypatch.setattr("poller.cli.check.check.callback", fail)
    ran = poller("check", SQL_DSN=f"postgres://me:{CANARY}@db/gw")
    assert ran.code == 70
    assert CANARY not in ran.err
    assert "could not use" in ran.err
    assert "in fail" in ran.err


def test_a_reader_that_leaves_early_is_no_crash():
    command = f"{sys.executable} -m poller check --json | true"
    ran = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]}
    )
    assert "Traceback" not in ran.stderr
    assert "Exception ignored" not in ran.stderr


@pytest.mark.parametrize("command", ["check --json", "--help", "migrate --print --profile main"])
def test_a_full_disk_under_our_output_is_one_line_and_74(command: str):
    ran = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m poller {command} > /dev/full"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"]},
    )
    assert ran.returncode == 74
    assert ran.stderr == "poller: cannot write the output: No space left on device\n"


# -- the database --


async def in_thread(poller: Run, *arguments: str, **environ: str):
    with anyio.fail_after(60):
        return await anyio.to_thread.run_sync(lambda: poller(*arguments, **environ))


async def test_a_database_that_is_away_is_tried_and_then_69(
    poller: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr("poller.cli.reading.opened.__wrapped__.__kwdefaults__", {"patience_s": 0.6})
    ran = await in_thread(poller, "pause", SQL_DSN=f"postgres://me:{CANARY}@127.0.0.1:1/gw")
    assert ran.code == 69
    (line,) = ran.err.splitlines()
    assert line.startswith("poller: database: lost: ConnectionRefusedError in connect to 127.0.0.1:1; tried for ")
    assert CANARY not in line


@pytest.mark.parametrize("profile", ["documented", "fork", "main"])
async def test_migrate_twice_creates_and_then_finds_everything(poller: Run, make_database: MakeDatabase, profile: str):
    dsn = await make_database(profile, migrated=False)
    first = await in_thread(poller, "migrate", SQL_DSN=dsn)
    assert first.code == 0, first.err
    assert f"profile {profile}" in first.out
    assert "0001 poller" in first.out
    assert "index on active tasks: created" in first.out
    second = await in_thread(poller, "migrate", SQL_DSN=dsn)
    assert second.code == 0
    assert "schema poller: up to date" in second.out
    assert "index on active tasks: kept" in second.out


async def test_migrate_print_writes_sql_and_touches_nothing(poller: Run, make_database: MakeDatabase):
    dsn = await make_database("fork", migrated=False)
    ran = await in_thread(poller, "migrate", "--print", SQL_DSN=dsn)
    assert ran.code == 0
    assert "CREATE SCHEMA" in ran.out
    assert "CREATE INDEX CONCURRENTLY" in ran.out
    connection = await asyncpg.connect(dsn)
    assert not await connection.fetchval(
        "SELECT count(*) FROM information_schema.schemata WHERE schema_name = 'poller'"
    )
    await connection.close()


def test_migrate_print_for_a_profile_needs_no_database(poller: Run):
    assert "CREATE SCHEMA" in poller("migrate", "--print", "--profile", "main").out


async def test_pause_and_resume_are_rows_of_the_database(poller: Run, make_database: MakeDatabase):
    dsn = await make_database("documented")
    connection = await asyncpg.connect(dsn)
    await connection.execute("INSERT INTO channels (id, type, name, key) VALUES (7, 52, 'c', 'sk-key')")
    for command, subject, wanted in (
        (("pause",), "all channels", (True, 0)),
        (("pause", "7"), "channel 7", (True, 1)),
        (("resume",), "all channels", (False, 1)),
        (("resume", "7"), "channel 7", (False, 0)),
    ):
        ran = await in_thread(poller, *command, SQL_DSN=dsn)
        assert ran.code == 0, ran.err
        assert subject in ran.out
        control = await connection.fetchval("SELECT is_paused FROM poller.control")
        lanes = await connection.fetchval("SELECT count(*) FROM poller.lane WHERE is_paused AND channel_id = 7")
        assert (control, lanes) == wanted
    assert await connection.fetchval("SELECT count(*) FROM poller.replica") == 0
    await connection.close()


@pytest.mark.parametrize("verb", ["pause", "resume"])
async def test_a_channel_that_is_not_there_is_refused_and_nothing_written(
    poller: Run, make_database: MakeDatabase, verb: str
):
    dsn = await make_database("main")
    ran = await in_thread(poller, verb, "999", SQL_DSN=dsn)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "poller: channel 999: no such channel, neither in the gateway's table nor among the lanes\n"
    connection = await asyncpg.connect(dsn)
    assert await connection.fetchval("SELECT count(*) FROM poller.lane") == 0
    # A lane outlives its channel's row: it can still be paused.
    await connection.execute("INSERT INTO poller.lane (channel_id) VALUES (999)")
    assert (await in_thread(poller, verb, "999", SQL_DSN=dsn)).code == 0
    await connection.close()


async def test_pause_without_our_schema_says_to_migrate(poller: Run, make_database: MakeDatabase):
    ran = await in_thread(poller, "pause", SQL_DSN=await make_database("main", migrated=False))
    assert ran.code == 78
    assert "poller migrate" in ran.err


# -- the side port --


async def test_trigger_and_healthcheck_use_the_side_port_of_the_local_replica(poller: Run):
    console = Console()
    async with side_port(console) as (client, _):
        port = str(client.base_url.port)
        assert (await in_thread(poller, "trigger", METRICS_PORT=port)).code == 0
        assert (await in_thread(poller, "healthcheck", METRICS_PORT=port)).code == 0
        assert (await in_thread(poller, "healthcheck", "ready", "--url", f"http://127.0.0.1:{port}/")).code == 0
        console.ready["database"] = "network"
        ran = await in_thread(poller, "healthcheck", "ready", METRICS_PORT=port)
        assert (ran.code, ran.out) == (1, "")
        assert "[-]database network" in ran.err
    assert console.done == [("trigger", None)]


async def test_trigger_sends_the_admin_token_and_says_when_it_is_refused(poller: Run):
    from poller.core.model import Secret

    console = Console()
    async with side_port(console, admin_token=Secret(CANARY)) as (client, _):
        port = str(client.base_url.port)
        refused = await in_thread(poller, "trigger", METRICS_PORT=port, CUSTOM_PASS_ADMIN_TOKEN="wrongcanary")
        assert refused.code == 77
        assert "canary" not in refused.err
        assert (await in_thread(poller, "trigger", METRICS_PORT=port, CUSTOM_PASS_ADMIN_TOKEN=CANARY)).code == 0
        console.trouble = DatabaseAway("network")
        assert (await in_thread(poller, "trigger", METRICS_PORT=port, CUSTOM_PASS_ADMIN_TOKEN=CANARY)).code == 75
    assert len(console.done) == 1


def test_trigger_goes_past_proxies(poller: Run):
    port = free_port()
    # A proxy without user and password is no secret: nothing of the address in the message is hidden.
    ran = poller("trigger", METRICS_PORT=str(port), HTTP_PROXY=f"http://127.0.0.1:{str(port)[:1]}")
    assert ran.code == 69
    assert f"side port http://127.0.0.1:{port}" in ran.err


@pytest.mark.parametrize("url", ["file:///etc/passwd", "127.0.0.1:9090", "http://:x", "http://h:99999"])
def test_a_url_that_is_none_is_wrong_usage(poller: Run, url: str):
    assert poller("trigger", "--url", url).code == 64


@pytest.mark.parametrize("command", ["trigger", "healthcheck"])
def test_a_side_port_at_any_free_port_must_be_named(poller: Run, command: str):
    ran = poller(command, METRICS_PORT="0")
    assert ran.code == 78
    assert ran.err == (
        "poller: METRICS_PORT: 0 takes any free port: set a fixed one, or name the replica's with --url\n"
    )
    assert poller(command, "--url", "http://127.0.0.1:1", METRICS_PORT="0").code != 78


def test_a_replica_that_is_not_there_is_not_live(poller: Run):
    ran = poller("healthcheck", "--url", "http://127.0.0.1:1")
    assert ran.code == 1
    assert "is a poller running there?" in ran.err


def test_check_json_of_a_fresh_process_is_json():
    command = [sys.executable, "-m", "poller", "check", "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env={"SQL_DSN": "postgres://a@b/c"})
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["faults"] == []


# -- the simulator --


def test_simulate_serves_until_it_is_told_to_stop():
    command = [*LEASH, sys.executable, "-m", "poller", "simulate", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[0]
            submitted = httpx.post(f"{url}/m/submit", trust_env=False, timeout=20).json()
            asked = {"task_ids": [submitted["data"]["task_id"]]}
            answer = httpx.post(f"{url}/m/task/list-by-condition", json=asked, trust_env=False, timeout=20).json()
            assert answer["data"][0]["task_id"] == asked["task_ids"][0]
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()


def test_simulate_on_a_taken_port_is_one_line_and_69(poller: Run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ran = poller("simulate", "--port", str(taken.getsockname()[1]))
        port = taken.getsockname()[1]
    assert ran.code == 69
    assert ran.err == f"poller: simulate: cannot listen on 127.0.0.1 port {port} (Address already in use)\n"
