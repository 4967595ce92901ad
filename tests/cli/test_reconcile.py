"""``poller reconcile``: what it says, how it ends, and that it needs no more memory for more rows."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import asyncpg
import pytest

from tests.cli.conftest import Ran, Run
from tests.cli.test_commands import in_thread
from tests.conftest import MakeDatabase
from tests.e2e.harness import TERM, Daemon, clean_environment, ending, fetchval, seeded, settled, upstream

LIMIT_S = 180.0

HISTORY = {
    "documented": """
        INSERT INTO users (id, quota, used_quota) SELECT n, 1000, 5000 FROM generate_series(1, 50) n;
        INSERT INTO tasks (task_id, user_id, channel_id, action, status, quota, used_quota, created_at, updated_at)
        SELECT 'old-' || n, n % 50 + 1, 1, 'm/submit', 'failed', 1000 + n, 0,
            '2026-01-01'::timestamptz + n * interval '1s', '2026-01-15'
        FROM generate_series(1, {count}) n;
        INSERT INTO logs (user_id, type, quota, content, created_at)
        SELECT n % 50 + 1, 'refund', 1000 + n, 'refund', '2026-02-01'
        FROM generate_series(1, {count}) n WHERE n % 10 <> 0;
        INSERT INTO logs (user_id, type, created_at) VALUES (0, 'refund', '2025-12-01'), (0, 'consume', now())
    """,
    "fork": """
        INSERT INTO users (id, username, access_token, aff_code, quota, used_quota)
        SELECT n, 'u' || n, n::text, 'a' || n, 1000, 5000 FROM generate_series(1, 50) n;
        INSERT INTO tasks (task_id, platform, user_id, channel_id, action, status, progress, quota, submit_time)
        SELECT 'old-' || n, 'custompass', n % 50 + 1, 1, 'm/submit', 'FAILURE', '100%', 1000 + n, 1767225600 + n
        FROM generate_series(1, {count}) n;
        INSERT INTO logs (user_id, type, content, created_at)
        SELECT n % 50 + 1, 4, 'CustomPass任务失败退费 - 模型: m/submit, 任务ID: old-' || n || ', 补偿 1 点额度, 原因: ',
            1770000000
        FROM generate_series(1, {count}) n WHERE n % 10 <> 0;
        INSERT INTO logs (user_id, type, created_at) VALUES (0, 4, 1764547200), (0, 2, extract(epoch FROM now()))
    """,
    "main": """
        INSERT INTO users (id, username, access_token, aff_code, quota, used_quota)
        SELECT n, 'u' || n, n::text, 'a' || n, 1000, 5000 FROM generate_series(1, 50) n;
        INSERT INTO tasks (task_id, platform, user_id, channel_id, action, status, progress, quota, submit_time)
        SELECT 'old-' || n, 'custompass', n % 50 + 1, 1, 'm/submit', 'FAILURE', '100%', 1000 + n, 1767225600 + n
        FROM generate_series(1, {count}) n;
        INSERT INTO logs (user_id, type, quota, other, created_at)
        SELECT n % 50 + 1, 6, 1000 + n, '{{"task_id":"old-' || n || '"}}', 1770000000
        FROM generate_series(1, {count}) n WHERE n % 10 <> 0;
        INSERT INTO logs (user_id, type, created_at) VALUES (0, 6, 1764547200), (0, 2, extract(epoch FROM now()))
    """,
}
OWED = "SELECT sum(1000 + n) FROM generate_series(1, {count}) n WHERE n % 10 = 0"


async def history(dsn: str, profile: str, count: int) -> None:
    """*count* tasks that failed before the daemon was there; every tenth was never refunded."""
    connection = await asyncpg.connect(dsn)
    await connection.execute(HISTORY[profile].format(count=count))
    await connection.execute("ANALYZE")
    await connection.close()


async def ran(dsn: str, *arguments: str, **settings: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "poller", "reconcile", *arguments]
    with anyio.fail_after(LIMIT_S):
        done = await anyio.run_process(
            command, check=False, env={**clean_environment(), "SQL_DSN": dsn, **settings}, stdin=subprocess.DEVNULL
        )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


Reconcile = Callable[..., Awaitable[Ran]]


@pytest.fixture
def reconcile(poller: Run) -> Reconcile:
    """``code, out, err = await reconcile(dsn, "--apply")``, in this process."""

    async def run(dsn: str, *arguments: str, **settings: str) -> Ran:
        with anyio.fail_after(LIMIT_S):
            return await in_thread(poller, "reconcile", *arguments, SQL_DSN=dsn, **settings)

    return run


async def test_a_clean_gateway_ends_with_0(make_database: MakeDatabase, reconcile: Reconcile, profile_name: str):
    code, out, err = await reconcile(await make_database(profile_name))
    assert code == 0, err
    assert out.splitlines()[0] == "differences: none"
    assert f"profile {profile_name}: looked at 0 settlements" in out


async def test_what_is_owed_is_listed_then_given_back_and_then_gone(
    make_database: MakeDatabase, reconcile: Reconcile, profile_name: str
):
    dsn = await make_database(profile_name)
    await history(dsn, profile_name, 300)
    owed = await fetchval(dsn, OWED.format(count=300))
    quota = "SELECT sum(quota)::bigint FROM users"
    before = int(str(await fetchval(dsn, quota)))

    code, out, err = await reconcile(dsn)
    assert code == 2, err
    assert re.search(rf"^owed +30 +{owed} +finished and never refunded", out, re.MULTILINE), out
    assert out.count("owed: pk=") == 20
    assert await fetchval(dsn, quota) == before

    code, out, _ = await reconcile(dsn, "--json")
    told = json.loads(out)
    assert (code, told["is_clean"], told["profile"]) == (2, False, profile_name)
    assert told["classes"] == {"owed": {"count": 30, "quota": owed}}
    assert len(told["findings"]) == 30
    assert told["findings"][0].keys() == {"class", "task_pk", "task_id", "user_id", "channel_id", "quota", "detail"}

    code, out, _ = await reconcile(dsn, "--apply", "--json")
    told = json.loads(out)
    assert (code, told["is_clean"]) == (0, True)
    assert told["repaired"] == {"count": 30, "quota": owed}
    assert {each["repair"] for each in told["findings"]} == {"settled"}
    assert await fetchval(dsn, quota) == before + owed

    code, out, _ = await reconcile(dsn, "--apply")
    assert (code, out.splitlines()[0]) == (0, "differences: none")
    assert await fetchval(dsn, quota) == before + owed


@pytest.mark.parametrize("lost", ["TRUNCATE logs", "DELETE FROM logs WHERE user_id = 0"])
async def test_what_log_rows_cannot_tell_of_is_not_given_back_unless_a_person_says_so(
    make_database: MakeDatabase, reconcile: Reconcile, profile_name: str, lost: str
):
    dsn = await make_database(profile_name)
    await history(dsn, profile_name, 100)
    await fetchval(dsn, lost)
    quota = "SELECT sum(quota)::bigint FROM users"
    before = await fetchval(dsn, quota)
    code, out, err = await reconcile(dsn, "--apply")
    assert code == 2
    assert "--yes" in err
    assert "ambiguous" in out
    assert await fetchval(dsn, quota) == before
    assert (await reconcile(dsn, "--apply", "--yes"))[0] == 0
    assert await fetchval(dsn, quota) != before


async def test_runs_at_once_give_back_once(make_database: MakeDatabase, profile_name: str):
    dsn = await make_database(profile_name)
    await history(dsn, profile_name, 1000)
    owed = int(str(await fetchval(dsn, OWED.format(count=1000))))
    quota = "SELECT sum(quota)::bigint FROM users"
    before = int(str(await fetchval(dsn, quota)))
    codes, sums = [], []

    async def run() -> None:
        code, out, _ = await ran(dsn, "--apply", "--yes", "--json")
        codes.append(code)
        sums.append(json.loads(out)["repaired"]["quota"])

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(run)
    assert codes == [0, 0, 0]
    assert sum(sums) == owed
    assert await fetchval(dsn, quota) == before + owed


async def test_beside_a_running_daemon_nothing_is_paid_twice(
    make_database: MakeDatabase, reconcile: Reconcile, profile_name: str, tmp_path: Path
):
    from poller.demo import world
    from poller.demo.fates import Lives
    from poller.demo.simulator import Simulator

    simulator = Simulator(lives=Lives(seed=5, shortest_s=0.0, typical_s=1.0, longest_s=4.0))
    dsn = await make_database(profile_name, migrated=True)
    async with upstream(simulator) as url:
        await seeded(dsn, profile_name, 300, url, simulator)
        daemon = Daemon(dsn, tmp_path / "log", {})
        with ending(daemon):
            await daemon.says("database_opened")
            while await settled(dsn) < 300:
                code, out, err = await reconcile(dsn, "--apply", "--yes", "--json")
                assert code in (0, 2), err
                assert json.loads(out)["repaired"]["count"] == 0
            daemon.signal(TERM)
            assert await daemon.ended() == 0
    connection = await asyncpg.connect(dsn)
    wrong = [finding for finding in await world.check(connection, profile_name) if not finding.is_ok]
    await connection.close()
    assert not wrong
    code, out, _ = await reconcile(dsn)
    assert code == 0, out


async def test_since_takes_dates_and_lengths_of_time_and_nothing_else(
    make_database: MakeDatabase, reconcile: Reconcile
):
    dsn = await make_database("documented")
    await history(dsn, "documented", 100)
    assert (await reconcile(dsn, "--since", "2026-01-01T00:01:00Z"))[1].count("owed: pk=") == 5
    assert (await reconcile(dsn, "--since", "2099-01-01"))[0] == 0
    assert (await reconcile(dsn, "--since", "20000d"))[0] == 2
    for wrong in ("yesterday", "30", "-5d"):
        code, _, err = await reconcile(dsn, f"--since={wrong}")
        assert code == 64
        assert "expected a date" in err


async def test_repairs_with_logs_elsewhere_are_logged_there_before_the_command_ends(
    make_database: MakeDatabase, reconcile: Reconcile
):
    dsn, logs = await make_database("main"), await make_database("main", migrated=False)
    await history(dsn, "main", 100)
    connection = await asyncpg.connect(dsn)
    rows = await connection.fetch("SELECT user_id, type, quota, other, created_at FROM logs")
    await connection.execute("DELETE FROM logs")
    await connection.close()
    there = await asyncpg.connect(logs)
    await there.executemany(
        "INSERT INTO logs (user_id, type, quota, other, created_at) VALUES ($1, $2, $3, $4, $5)",
        [tuple(row.values()) for row in rows],
    )
    code, out, _ = await reconcile(dsn, "--apply", "--yes", "--json", LOG_SQL_DSN=logs)
    assert (code, json.loads(out)["repaired"]["count"]) == (0, 10)
    assert await there.fetchval("SELECT count(*) FROM logs WHERE user_id <> 0") == 100
    await there.close()
    assert await fetchval(dsn, "SELECT count(*) FROM logs") == 0
    assert await fetchval(dsn, "SELECT count(*) FROM poller.outbox") == 0


async def test_a_database_that_is_away_ends_with_69(reconcile: Reconcile):
    code, _, err = await reconcile("postgresql://postgres@127.0.0.1:1/none?sslmode=disable")
    assert code == 69
    assert "database" in err


MEASURED = """
import resource, sys
from poller.__main__ import execute
code = execute(["reconcile", "--json"])
print(f"peak={resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}", file=sys.stderr)
sys.exit(code)
"""


async def peak_kib(dsn: str) -> int:
    with anyio.fail_after(LIMIT_S):
        done = await anyio.run_process(
            [sys.executable, "-c", MEASURED], check=False, env={**clean_environment(), "SQL_DSN": dsn}
        )
    assert done.returncode == 2, done.stderr.decode()
    assert len(json.loads(done.stdout)["findings"]) >= 100
    return int(re.findall(r"peak=(\d+)", done.stderr.decode())[0])


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
@pytest.mark.parametrize("profile_name", ["documented", "main"])
async def test_a_hundred_times_the_rows_need_no_more_memory(make_database: MakeDatabase, profile_name: str):
    peaks = []
    for count in (1_000, 100_000):
        dsn = await make_database(profile_name)
        await history(dsn, profile_name, count)
        peaks.append(await peak_kib(dsn))
    assert peaks[1] - peaks[0] < 16 * 1024, peaks
