"""The main job, with everything real: PostgreSQL, HTTP, processes and signals."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import anyio
import asyncpg
import pytest

from poller.demo.fates import Lives
from poller.demo.simulator import Simulator
from poller.demo.troubles import Trouble
from tests.conftest import MakeDatabase
from tests.e2e.harness import (
    HUP,
    KILL,
    LIMIT_S,
    QUICK,
    TERM,
    USR1,
    Daemon,
    assert_money_is_right,
    ending,
    fetchval,
    seeded,
    settled,
    until,
    upstream,
)


async def test_three_daemons_settle_every_task_exactly_once_under_random_troubles(
    make_database: MakeDatabase, profile_name: str, tmp_path: Path
) -> None:
    tasks = 5000 if profile_name == "main" else 500
    troubles = Trouble(
        failing=0.1, babbling=0.05, absent=0.05, unknown_word=0.05, doubled=0.05, strange=0.05, slow_s=0.2
    )
    simulator = Simulator(lives=QUICK, troubles={f"/ch{n}": troubles for n in (1, 2)})
    dsn = await make_database(profile_name, migrated=False)
    async with upstream(simulator) as url:
        await seeded(dsn, profile_name, tasks, url, simulator)
        daemons = [Daemon(dsn, tmp_path / f"{n}.log", {}) for n in range(3)]
        with ending(*daemons):
            await until(lambda: all_settled(dsn, tasks))
            for daemon in daemons:
                daemon.signal(TERM)
            assert [await daemon.ended() for daemon in daemons] == [0, 0, 0]
    await assert_money_is_right(dsn, profile_name)


async def all_settled(dsn: str, tasks: int) -> bool:
    return await settled(dsn) >= tasks


async def test_twenty_kills_in_the_midst_of_settling_change_no_sum(
    make_database: MakeDatabase, profile_name: str, tmp_path: Path
) -> None:
    tasks, kills, hits_wanted = (3000, 20, 10) if profile_name == "main" else (1000, 3, 1)
    simulator = Simulator(lives=Lives(seed=5, shortest_s=0.0, typical_s=0.01, longest_s=0.05))
    chance = random.Random(11)
    dsn = await make_database(profile_name, migrated=False)
    settings = {"CUSTOM_PASS_LEASE_TTL": "1s", "CUSTOM_PASS_POLL_INTERVAL": "300ms", "CUSTOM_PASS_BATCH_SIZE": "7"}
    async with upstream(simulator) as url:
        await seeded(dsn, profile_name, tasks, url, simulator)
        hits = 0
        for number in range(kills):
            before = await settled(dsn)
            daemon = Daemon(dsn, tmp_path / f"{number}.log", settings)
            with ending(daemon):
                await until(lambda before=before: settled_beyond(dsn, before, tasks))  # type: ignore[misc]
                await anyio.sleep(chance.random() * 0.05)
                daemon.signal(KILL)
                await daemon.ended()
            hits += before < await settled(dsn) < tasks
            if await settled(dsn) >= tasks:
                break
        assert hits >= hits_wanted, "too few kills met a daemon that was settling"
        last = Daemon(dsn, tmp_path / "last.log", settings)
        with ending(last):
            await until(lambda: all_settled(dsn, tasks))
            last.signal(TERM)
            assert await last.ended() == 0
    await assert_money_is_right(dsn, profile_name)


async def settled_beyond(dsn: str, before: int, tasks: int) -> bool:
    now = await settled(dsn)
    return now > before or now >= tasks


@pytest.mark.parametrize("profile", ["documented", "fork", "main"])
async def test_a_task_reopened_by_a_whole_row_save_is_closed_again_and_paid_once(
    make_database: MakeDatabase, profile: str, tmp_path: Path
) -> None:
    simulator = Simulator(lives=QUICK)
    dsn = await make_database(profile, migrated=False)
    async with upstream(simulator) as url:
        await seeded(dsn, profile, 200, url, simulator)
        daemon = Daemon(dsn, tmp_path / "log", {})
        with ending(daemon):
            await until(lambda: all_settled(dsn, 200))
            await reopen(dsn, profile, "SELECT id FROM tasks WHERE id % 3 = 0")
            await until(lambda: none_open(dsn, profile))
            status, metrics = await daemon.get("/metrics")
            assert status == 200
            assert "custompass_task_reopened_total 66.0" in metrics
            daemon.signal(TERM)
            assert await daemon.ended() == 0
    await assert_money_is_right(dsn, profile)


async def reopen(dsn: str, profile: str, which: str) -> None:
    """What a gateway's ``DB.Save(task)`` does with a struct that it read before we settled: all columns, no guard."""
    columns = ["status", "progress", "quota", "fail_reason", "data", "updated_at"]
    columns += ["used_quota"] if profile == "documented" else ["finish_time", "start_time"]
    assignments = ", ".join(f"{name} = old.{name}" for name in columns)
    await fetchval(
        dsn, f"UPDATE tasks t SET {assignments} FROM demo.tasks0 old WHERE old.id = t.id AND t.id IN ({which})"
    )


async def none_open(dsn: str, profile: str) -> bool:
    final = "('completed', 'failed')" if profile == "documented" else "('SUCCESS', 'FAILURE')"
    return await fetchval(dsn, f"SELECT count(*) FROM tasks WHERE status NOT IN {final}") == 0


async def test_an_unchanged_poll_rewrites_no_row_of_the_gateways_tables(
    make_database: MakeDatabase, profile_name: str, tmp_path: Path
) -> None:
    simulator = Simulator(lives=Lives(seed=1, shortest_s=1e6, typical_s=1.0, longest_s=1e7))
    dsn = await make_database(profile_name, migrated=False)
    async with upstream(simulator) as url:
        await seeded(dsn, profile_name, 300, url, simulator)
        await fetchval(dsn, "UPDATE tasks SET task_id = replace(task_id, 'lost-', 'kept-')")
        if profile_name == "main":
            await fetchval(dsn, "UPDATE tasks SET private_data = replace(private_data::text, 'lost-', 'kept-')::json")
        daemon = Daemon(dsn, tmp_path / "log", {})
        with ending(daemon):
            await until(lambda: passes_since(dsn, 2))
            before = await rows(dsn)
            await until(lambda: passes_since(dsn, 5))
            assert await rows(dsn) == before
            daemon.signal(TERM)
            assert await daemon.ended() == 0


async def rows(dsn: str) -> list[tuple[object, ...]]:
    connection = await asyncpg.connect(dsn)
    try:
        found = []
        for table in ("tasks", "users", "tokens", "channels"):
            found += await connection.fetch(f"SELECT '{table}', id, ctid::text, xmin::text FROM {table} ORDER BY id")
        return [tuple(row) for row in found]
    finally:
        await connection.close()


async def passes_since(dsn: str, count: int) -> bool:
    """Whether every lane began at least *count* seconds' worth of passes after its first."""
    try:
        found = await fetchval(
            dsn,
            """SELECT count(*) = 4 FROM poller.lane, poller.replica
            WHERE pass_ended_at > started_at + $1 * interval '1 second'""",
            float(count),
        )
    except asyncpg.UndefinedTableError:
        return False
    return bool(found)


async def test_five_hanging_channels_of_twenty_delay_nobody_else(make_database: MakeDatabase, tmp_path: Path) -> None:
    interval_s = 4.0
    hanging = {f"/ch{n}": Trouble(hanging=1.0) for n in range(1, 6)}
    simulator = Simulator(lives=Lives(seed=2, shortest_s=0.0, typical_s=0.0001, longest_s=0.001), troubles=hanging)
    dsn = await make_database("main", migrated=False)
    async with upstream(simulator) as url:
        await seeded(dsn, "main", 5000, url, simulator)
        await fetchval(
            dsn,
            """INSERT INTO channels (id, type, name, key, base_url)
            SELECT i, 53, 'more-' || i, 'key-' || i, $1 || '/ch' || i FROM generate_series(5, 20) AS i""",
            url,
        )
        await fetchval(dsn, "UPDATE tasks SET channel_id = id % 20 + 1")
        settings = {
            "CUSTOM_PASS_POLL_INTERVAL": f"{interval_s}s",
            "CUSTOM_PASS_MAX_CONCURRENT": "20",
            "CUSTOM_PASS_TASK_TIMEOUT": "10s",
            "CUSTOM_PASS_DRAIN_TIMEOUT": "1s",
        }
        daemon = Daemon(dsn, tmp_path / "log", settings)
        with ending(daemon):
            await daemon.says("database_opened")
            began = time.monotonic()
            await until(lambda: healthy_settled(dsn))
            # Two intervals, and the time that a busy machine takes to start and settle.
            assert time.monotonic() - began < 2 * interval_s + 10
            assert await fetchval(dsn, "SELECT count(*) FROM poller.ledger WHERE channel_id <= 5") == 0
            daemon.signal(TERM)
            assert await daemon.ended() == 0
        assert simulator.most_in_flight <= 20


async def healthy_settled(dsn: str) -> bool:
    return (
        await fetchval(dsn, "SELECT count(*) FROM tasks WHERE channel_id > 5 AND status NOT IN ('SUCCESS', 'FAILURE')")
        == 0
    )


async def test_sigusr1_settles_at_once_what_upstream_has_finished(make_database: MakeDatabase, tmp_path: Path) -> None:
    simulator = Simulator(lives=Lives(seed=4, shortest_s=1.0, typical_s=0.001, longest_s=1.1))
    simulator.started_s += 1e6  # nothing is finished yet, however slow this machine is
    dsn = await make_database("fork", migrated=False)
    async with upstream(simulator) as url:
        await seeded(dsn, "fork", 200, url, simulator)
        daemons = [Daemon(dsn, tmp_path / f"{n}.log", {"CUSTOM_PASS_POLL_INTERVAL": "10m"}) for n in range(2)]
        with ending(*daemons):
            await until(lambda: first_passes_over(dsn))
            # The other one may have done all of them: only who has its database can pass a trigger on.
            await until(lambda: is_started(daemons[0]))
            first = await settled(dsn)
            assert first < 20  # those that upstream has forgotten
            simulator.started_s = time.time() - 100
            daemons[0].signal(HUP)
            await daemons[0].says("reload_unsupported")
            daemons[0].signal(USR1)
            # Also the lanes of the other replica: the mark is in the database.
            await until(lambda: all_settled(dsn, 200), limit_s=30)
            for daemon in daemons:
                daemon.signal(TERM)
            assert [await daemon.ended() for daemon in daemons] == [0, 0]
    await assert_money_is_right(dsn, "fork")


async def is_started(daemon: Daemon) -> bool:
    return (await daemon.get("/startupz"))[0] == 200


async def first_passes_over(dsn: str) -> bool:
    try:
        return await fetchval(dsn, "SELECT count(*) FROM poller.lane WHERE pass_ended_at IS NOT NULL") == 4
    except asyncpg.UndefinedTableError:
        return False


async def test_sigterm_in_the_middle_of_asks_settles_them_and_exits_0_within_the_drain_time(
    make_database: MakeDatabase, tmp_path: Path
) -> None:
    slow = {f"/ch{n}": Trouble(slow_s=2.0) for n in range(1, 5)}
    simulator = Simulator(lives=Lives(seed=6, shortest_s=0.0, typical_s=0.001, longest_s=0.01), troubles=slow)
    dsn = await make_database("documented", migrated=False)
    async with upstream(simulator) as url:
        await seeded(dsn, "documented", 1000, url, simulator)
        settings = {"CUSTOM_PASS_TASK_TIMEOUT": "10s", "CUSTOM_PASS_DRAIN_TIMEOUT": "20s"}
        daemon = Daemon(dsn, tmp_path / "log", settings)
        with ending(daemon), anyio.fail_after(LIMIT_S):
            while not simulator.in_flight:
                await anyio.sleep(0.01)
            daemon.signal(TERM)
            assert await daemon.ended(30) == 0
            answered = simulator.requests
            assert simulator.in_flight == 0
            # What was asked was settled: nothing that upstream answered is still to be asked for.
            assert await settled(dsn) > 0
            assert answered > 0
            assert await fetchval(dsn, "SELECT count(*) FROM poller.lane WHERE holder IS NOT NULL") == 0
        last = Daemon(dsn, tmp_path / "last.log", settings, ("run", "--once"))
        with ending(last):
            assert await last.ended() == 0
    await assert_money_is_right(dsn, "documented")


@pytest.mark.parametrize(("second", "code"), [(TERM, 143), (signal.SIGINT, 130)], ids=["TERM", "INT"])
async def test_a_second_signal_ends_a_drain_at_once_and_loses_no_settlement(
    make_database: MakeDatabase, tmp_path: Path, second: int, code: int
) -> None:
    troubles = {f"/ch{n}": Trouble(hanging=1.0) for n in (2, 3, 4)}
    simulator = Simulator(lives=Lives(seed=6, shortest_s=0.0, typical_s=0.001, longest_s=0.01), troubles=troubles)
    dsn = await make_database("fork", migrated=False)
    async with upstream(simulator) as url:
        await seeded(dsn, "fork", 200, url, simulator)
        # Far longer than this test waits: what hangs would end neither by itself nor with the drain.
        settings = dict.fromkeys(("CUSTOM_PASS_TASK_TIMEOUT", "CUSTOM_PASS_HTTP_TIMEOUT"), "10m")
        daemon = Daemon(dsn, tmp_path / "log", {**settings, "CUSTOM_PASS_DRAIN_TIMEOUT": "10m"})
        with ending(daemon), anyio.fail_after(LIMIT_S):
            while not (simulator.in_flight and await settled(dsn)):
                await anyio.sleep(0.01)
            daemon.signal(TERM)
            await daemon.says("daemon_draining")
            assert daemon.process.poll() is None
            daemon.signal(second)
            assert await daemon.ended(20) == code
            assert "daemon_aborted" in daemon.said()
            assert "Traceback" not in daemon.said()
        simulator.troubles.clear()
        # Nobody handed the leases back: they and the replica's place would run out within seconds.
        await fetchval(dsn, "UPDATE poller.lane SET lease_until = now()")
        await fetchval(dsn, "DELETE FROM poller.replica")
        last = Daemon(dsn, tmp_path / "last.log", {}, ("run", "--once"))
        with ending(last):
            assert await last.ended() == 0, last.said()
    assert await settled(dsn) == 200
    await assert_money_is_right(dsn, "fork")


async def test_dry_run_says_what_it_would_settle_and_writes_nothing_not_even_a_schema(
    make_database: MakeDatabase, profile_name: str, tmp_path: Path
) -> None:
    simulator = Simulator(lives=Lives(seed=6, shortest_s=0.0, typical_s=0.001, longest_s=0.01))
    dsn = await make_database(profile_name, migrated=False)
    async with upstream(simulator) as url:
        await seeded(dsn, profile_name, 100, url, simulator)
        before = await rows(dsn)
        daemon = Daemon(dsn, tmp_path / "log", {}, ("run", "--dry-run"))
        with ending(daemon):
            assert await daemon.ended() == 0, daemon.said()
    assert daemon.said().count("would settle") == 100
    assert await rows(dsn) == before
    assert await fetchval(dsn, "SELECT to_regnamespace('poller')") is None
