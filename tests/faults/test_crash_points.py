"""Every labelled place of the daemon × every way to be interrupted there: nothing is lost, nothing is doubled.

The labels are listed from the source, so a new one is tried without a word here, and fails when nothing reaches it.
Ordinarily each label is killed at, each one of the settlement is interrupted in all ways, the others in one each;
``POLLER_FAULTS=full`` tries everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator

import anyio
import asyncpg
import pytest

from poller import crashpoints
from poller.errors import DatabaseAway
from poller.postgres.database import Transaction
from poller.postgres.pool import open_pool
from tests.e2e.harness import until
from tests.faults.labels import labels
from tests.faults.nursery import Nursery
from tests.faults.plan import HANDED_OVER, PROFILES, RARE
from tests.faults.settling import open_tasks, settle_everything, truly
from tests.faults.stand import Stand, stand
from tests.postgres.gateway import Gateway, open_store

LIMIT_S = 120
WAYS = ("terminate", "cut request", "cut reply", "cancel", "time-out")
LABELS = labels()
MONEY = tuple(label for label in LABELS if label.startswith("settle.") and label not in RARE)
OTHERS = tuple(label for label in LABELS if label not in MONEY)
IS_FULL = os.environ.get("POLLER_FAULTS") == "full"

WHOLE_DAEMON = [
    (label, way)
    for place, label in enumerate(OTHERS)
    for number, way in enumerate(WAYS)
    if IS_FULL or number == place % len(WAYS)
]


def profile_of(label: str, way: str) -> str:
    return PROFILES[(LABELS.index(label) + len(way)) % len(PROFILES)]


def shortest_s(label: str) -> float:
    """How long tasks take at least: there must be work left when others come and want lanes."""
    return 3.0 if label == HANDED_OVER else 0.05


def interrupt(way: str, at: Stand) -> None:
    """Do it, now; what is awaited next meets it."""
    match way:
        case "terminate":
            at.end_sessions()
        case "cut request":
            at.proxy.cut_next("request")
        case "cut reply":
            at.proxy.cut_next("reply")
        case "time-out":
            at.proxy.cut_next("nothing")
        case "cancel":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()


def hurry(monkeypatch) -> None:
    """Make deadlines short, so that a connection that hangs is noticed soon."""
    monkeypatch.setattr(Transaction, "_left_s", lambda _self, _timeout_s: 0.5)
    monkeypatch.setitem(open_pool.__kwdefaults__, "command_timeout_s", 0.5)


def test_labels_are_where_the_daemon_acts_and_each_stands_once():
    assert len(LABELS) >= 16
    assert {label.partition(".")[0] for label in LABELS} >= {"settle", "batch", "walk", "lane", "fleet"}
    assert RARE.keys() <= set(LABELS)


# -- the settlement by itself: all ways ------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("label", MONEY)
async def test_settlement_that_is_interrupted_is_whole_or_not_at_all(
    make_database, open_database, pg_server, monkeypatch, label, way
):
    profile = profile_of(label, way)
    dsn = await make_database(profile)
    reached = 0
    with anyio.fail_after(LIMIT_S):
        async with stand(dsn, pg_server.folder / f".s.PGSQL.{pg_server.port}", profile) as at:
            direct = await asyncpg.connect(dsn, server_settings={"application_name": "rig"})
            if way == "time-out":
                hurry(monkeypatch)
            store = await open_store(await open_database(at.settings["SQL_DSN"]), Gateway(profile, dsn, direct))
            settlements = await truly(direct, await open_tasks(store))

            def watch(passed: str) -> None:
                nonlocal reached
                if passed == label:
                    reached += 1
                    if reached == 2:
                        interrupt(way, at)

            crashpoints.watch(watch)
            try:
                for start in range(0, len(settlements), 8):
                    task = asyncio.ensure_future(store.settle(settlements[start : start + 8]))
                    with contextlib.suppress(asyncio.CancelledError, DatabaseAway):
                        await task
            finally:
                crashpoints.watch(None)
            monkeypatch.undo()
            at.proxy.heal()
            assert reached >= 2
            # What was left is open, and settles now.
            await settle_everything(direct, store)
            assert await at.is_drained()
            assert [str(each) for each in await at.violations()] == []
            await direct.close()


# -- the whole daemon ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("label", "way"), WHOLE_DAEMON)
async def test_daemon_that_is_interrupted_at_a_label_goes_on_and_the_money_is_right(
    make_database, pg_server, monkeypatch, label, way
):
    profile = profile_of(label, way)
    dsn = await make_database(profile)
    is_done = False
    with anyio.fail_after(LIMIT_S):
        socket = pg_server.folder / f".s.PGSQL.{pg_server.port}"
        async with stand(dsn, socket, profile, RARE.get(label, ""), shortest_s=shortest_s(label)) as at:
            if way == "time-out":
                hurry(monkeypatch)

            def watch(passed: str, cancel) -> None:
                nonlocal is_done
                if passed == label and not is_done:
                    is_done = True
                    if way == "cancel":
                        cancel()
                    else:
                        interrupt(way, at)

            async def is_over() -> bool:
                return is_done

            await at.settle_all(3 if label == HANDED_OVER else 0, watch, is_over)
            assert [str(each) for each in await at.violations()] == []


# -- kill -9 ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    made.start()
    yield made
    made.stop()


@pytest.mark.parametrize("label", LABELS)
async def test_daemon_killed_at_a_label_leaves_nothing_half_done(make_database, pg_server, nursery, tmp_path, label):
    profile = profile_of(label, "kill")
    dsn = await make_database(profile)
    with anyio.fail_after(LIMIT_S):
        socket = pg_server.folder / f".s.PGSQL.{pg_server.port}"
        async with (
            nursery.attached(),
            stand(dsn, socket, profile, RARE.get(label, ""), shortest_s=shortest_s(label)) as at,
        ):
            crash = {"CUSTOM_PASS_CRASH_AT": f"{label}:1"}
            victim = await nursery.spawn(at.settings | crash, tmp_path / "victim.log")
            helpers = []
            if label == HANDED_OVER:
                # It has all lanes when others come and want theirs.
                await until(at.is_walking)
                helpers = [await nursery.spawn(at.settings, tmp_path / f"helper-{n}.log") for n in range(3)]
            assert await victim.ended() == -signal.SIGKILL, victim.said()
            assert "crash_armed" in victim.said()
            # Its leases would run for a second more; they guard nothing.
            await at.fetch("UPDATE poller.lane SET lease_until = now()")
            last = await nursery.spawn(at.settings, tmp_path / "last.log")
            await until(at.is_drained, limit_s=60)
            for child in (last, *helpers):
                await child.says("daemon_started")
                child.signal(signal.SIGTERM)
                assert await child.ended() == 0
            assert [str(each) for each in await at.violations()] == []
