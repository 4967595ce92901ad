"""Every labelled place of the daemon × every way to be interrupted there: nothing is lost, nothing is doubled.

The labels are listed from the source, so a new one is tried without a word here, and fails when nothing reaches it.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable

import anyio
import asyncpg
import pytest

from poller import crashpoints
from poller.errors import DatabaseAway
from poller.postgres import statements
from poller.postgres.database import Database, Transaction
from poller.postgres.pool import open_pool
from poller.settings import Settings, load
from poller.wiring import open_deliveries
from tests.e2e.harness import until
from tests.faults import checker
from tests.faults.labels import labels
from tests.faults.plan import HANDED_OVER, RARE, profiles
from tests.faults.settling import open_tasks, settle_everything, truly
from tests.faults.stand import Stand, stand
from tests.ops.things import recorder
from tests.postgres.gateway import Gateway, open_store

LIMIT_S = 120
DEADLINE_S = 0.5
"""Of everything that is awaited of a database or cache, where a test hurries."""
WAYS = ("terminate", "cut request", "cut reply", "cancel", "time-out")
LABELS = labels()
MONEY = tuple(label for label in LABELS if label.startswith("settle.") and label not in RARE)
OTHERS = tuple(label for label in LABELS if label not in MONEY)
DELIVERY = tuple(
    (label, circumstance)
    for label in LABELS
    if label.startswith(("deliver.", "log.", "cache."))
    for circumstance in (
        ("logs", "redis") if RARE[label] != "away" and label.startswith("deliver.") else (RARE[label],)
    )
)
"""What settling left outside of the database is handed over in two ways that share the first of these labels."""


def profile_of(label: str, way: str) -> str:
    able = profiles({RARE.get(label, "")})
    return able[(LABELS.index(label) + len(way)) % len(able)]


def shortest_s(label: str) -> float:
    """How long tasks take at least: there must be work left when others come and want lanes."""
    return 3.0 if label == HANDED_OVER else 0.05


def interrupt(label: str, way: str, at: Stand, cancel: Callable[[], object]) -> None:
    """Do it, now, to what *label* is about; what is awaited next meets it."""
    proxy = at.proxy
    if label.startswith("log."):
        assert at.outside.logs is not None
        proxy = at.outside.logs
    if label.startswith("cache.") and way != "cancel":
        proxy = at.outside.cache
        at.outside.has_redis_broken = True
    match way:
        case "terminate" if at.outside.has_redis_broken:
            proxy.cut_all()
        case "terminate":
            at.end_sessions()
        case "cut request":
            proxy.cut_next("request")
        case "cut reply":
            proxy.cut_next("reply")
        case "time-out":
            proxy.cut_next("nothing")
        case "cancel":
            cancel()


def hurry(monkeypatch) -> None:
    """Make deadlines short, so that a connection that hangs is noticed soon."""
    monkeypatch.setattr(Transaction, "_left_s", lambda _self, _timeout_s: DEADLINE_S)
    monkeypatch.setitem(open_pool.__kwdefaults__, "command_timeout_s", DEADLINE_S)
    monkeypatch.setattr("poller.cache.redis._ANSWER_S", DEADLINE_S)


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
                        interrupt(label, way, at, task.cancel)

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


# -- delivery by itself: all ways ------------------------------------------------------------------------------------


async def interrupted_delivery(at: Stand, database: Database, settings: Settings, label: str, way: str) -> bool:
    """Hand over all that waits, again and again, interrupted at *label* once; whether that was reached."""
    scope, is_done = anyio.CancelScope(), False

    def watch(passed: str) -> None:
        nonlocal is_done
        if passed == label and not is_done:
            is_done = True
            interrupt(label, way, at, scope.cancel)

    crashpoints.watch(watch)
    try:
        while await at.fetch(checker.checks()["i21_outbox"]):
            await at.fetch(checker.FREE_CLAIMS)
            scope = anyio.CancelScope()
            with scope:
                async with open_deliveries(
                    settings, database, statements.load(at.profile), recorder()[0]
                ) as deliveries:
                    await deliveries.drain(LIMIT_S)
    finally:
        crashpoints.watch(None)
    return is_done


@pytest.mark.parametrize(("label", "circumstance"), DELIVERY)
async def test_delivery_that_is_interrupted_hands_over_every_line_once_and_moves_no_balance_twice(
    make_database, open_database, pg_server, monkeypatch, label, circumstance
):
    profile = profile_of(label, circumstance)
    dsn = await make_database(profile)
    with anyio.fail_after(LIMIT_S):
        async with stand(dsn, pg_server.folder / f".s.PGSQL.{pg_server.port}", profile, circumstance, tasks=60) as at:
            direct = await asyncpg.connect(dsn, server_settings={"application_name": "rig"})
            kinds = {"logs_elsewhere": at.outside.logs is not None, "moves_caches": at.outside.redis is not None}
            store = await open_store(await open_database(dsn), Gateway(profile, dsn, direct), **kinds)
            # Each way gets its share of the failures: there are gateways that log nothing else.
            settlements = sorted(await truly(direct, await open_tasks(store)), key=lambda each: each.outcome)
            found = load(at.settings).settings
            # A cut may cost a balance its move, and the checker then excuses all that come after it.
            for place, way in enumerate(sorted(WAYS)):
                await store.settle(settlements[place :: len(WAYS)])
                if circumstance == "away":
                    at.outside.be_away(1)
                with monkeypatch.context() as patches:
                    if way == "time-out":
                        hurry(patches)
                    database = await open_database(at.settings["SQL_DSN"])
                    assert await interrupted_delivery(at, database, found, label, way)
                if way == "cancel" and circumstance == "redis":
                    # A stop waits for what it has claimed: so it leaves no doubt, and costs no balance its move.
                    assert not await at.fetch("SELECT FROM inv.posted WHERE is_doubted")
                assert [str(each) for each in await at.violations(without=frozenset({"i11_nothing_open"}))] == [], way
            await direct.close()


# -- the whole daemon ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("label", OTHERS)
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
                    interrupt(label, way, at, cancel)

            async def is_over() -> bool:
                return is_done

            await at.settle_all(3 if label == HANDED_OVER else 0, watch, is_over)
            assert [str(each) for each in await at.violations()] == []


# -- kill -9 ---------------------------------------------------------------------------------------------------------


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
