"""An upstream that calls everything failed makes refunds: up to the limit of the hour, then money waits for a person.

Each task has 450 reserved, and its user 10 000 left.
"""

from __future__ import annotations

import asyncio
from typing import Any

from poller.settings import load
from poller.wiring import rules
from tests.bounded import within
from tests.cli.conftest import Run
from tests.cli.conftest import poller as poller  # the fixture
from tests.cli.test_commands import in_thread
from tests.upstream.faults_server import FaultServer, Request, answer_of, response
from tests.upstream.rig import LIFETIME_S, MakeRig, Rig
from tests.upstream.test_fault_table import data, item
from tests.upstream.test_keys_at_work import NOT_FOUND_FAILS, at_least_one_interval_later

LIMIT_S = 60.0


async def fails(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(response(answer_of(request.ids, "failed")))


async def open_tasks(rig: Rig) -> int:
    return int(await rig.gateway.connection.fetchval("SELECT count(*) FROM tasks")) - len(await rig.gateway.ledger())


async def an_hour_later(rig: Rig) -> None:
    await rig.gateway.connection.execute("UPDATE poller.ledger SET settled_at = settled_at - interval '1 hour'")


def events(rig: Rig, name: str) -> list[dict[str, Any]]:
    return [event for event in rig.lines.events if event["event"] == name]


def held(rig: Rig, channel: int) -> float | None:
    return rig.metrics.registry.get_sample_value("custompass_held_refunds", {"channel": str(channel)})


@within(LIMIT_S)
async def test_refunds_beyond_the_limit_wait_untouched_and_go_on_by_themselves_when_the_hour_has_passed(
    profile_name: str, make_rig: MakeRig
) -> None:
    rig = await make_rig(profile_name, max_refund_per_hour=1000)
    async with FaultServer(fails) as server:
        channel = await rig.channel(server.url)
        tasks = [await rig.task(channel) for _ in range(8)]
        start = {row["id"]: (row["quota"], row["used_quota"]) for row in (await rig.picture())["users"]}
        counts = await rig.walk(channel)
        assert (counts.settled, counts.refunded, counts.refunds_held, counts.quota_held) == (3, 1350, 5, 5 * 450)
        assert [await rig.state(pk) for pk in tasks] == ["FAILURE"] * 3 + ["IN_PROGRESS"] * 5
        waiting = await rig.picture()
        asked = len(server.requests)
        await rig.walk(channel, passes=3)
        # Asked about again, not one row written, nobody put aside.
        assert (len(server.requests), server.requests[-1].ids) == (asked + 3, [f"job-{n}" for n in range(4, 9)])
        assert await rig.picture() == waiting
        assert await rig.watched() == []
        assert held(rig, channel) == 5
        (lane,) = await rig.leases.lanes_overview()
        assert (lane["pass_counts"]["refunds_held"], lane["pass_counts"]["quota_held"]) == (5, 5 * 450)
        (said,) = events(rig, "refunds_held")
        assert (said["level"], said["channel_id"], said["limit"]) == ("error", channel, 1000)
        assert events(rig, "refunds_released") == []

        await an_hour_later(rig)
        await rig.walk(channel)
        assert await open_tasks(rig) == 2
        await an_hour_later(rig)
        await rig.walk(channel)
        assert await open_tasks(rig) == 0
        await rig.walk(channel)
    assert held(rig, channel) == 0
    assert len(events(rig, "refunds_held")) == len(events(rig, "refunds_released")) == 1
    await rig.site.expect_money(start)


@within(LIMIT_S)
async def test_successes_and_failures_that_cost_nothing_do_not_wait(make_rig: MakeRig) -> None:
    async def mixes(request: Request, writer: asyncio.StreamWriter) -> None:
        usage = {"total_tokens": 100}
        words = {"job-1": "failed", "job-2": "failed", "job-3": "completed", "job-4": "failed"}
        writer.write(response(data(*(item(name, words[name], usage=usage) for name in request.ids))))

    rig = await make_rig(max_refund_per_hour=100)
    async with FaultServer(mixes) as server:
        channel = await rig.channel(server.url)
        tasks = [await rig.task(channel, quota=quota) for quota in (450, 450, 450, 0)]
        await rig.walk(channel)
    assert [await rig.state(pk) for pk in tasks] == ["FAILURE", "IN_PROGRESS", "SUCCESS", "FAILURE"]
    # The rest that the success gave back is no refund of a failure.
    assert await rig.site.store.refunded_within_hour(channel) == 450


@within(LIMIT_S)
async def test_batches_side_by_side_give_back_no_more_than_one_after_the_other(make_rig: MakeRig) -> None:
    rig = await make_rig(max_refund_per_hour=2000, batch_size=1, slots=20)
    async with FaultServer(fails) as server:
        channel = await rig.channel(server.url)
        for _ in range(40):
            await rig.task(channel)
        await rig.walk(channel)
    assert len(await rig.gateway.ledger()) == 5


@within(LIMIT_S)
async def test_the_ledger_is_what_knows_so_another_replica_holds_them_too_and_other_channels_do_not(
    make_rig: MakeRig,
) -> None:
    rig = await make_rig(max_refund_per_hour=1)
    async with FaultServer(fails) as server:
        first, second = await rig.channel(server.url), await rig.channel(server.url)
        for channel in (first, first, second):
            await rig.task(channel)
        await rig.walk(first)
        rig.lanes.clear()
        await rig.walk(first)
        assert await open_tasks(rig) == 2
        await rig.walk(second)
        assert await open_tasks(rig) == 1


@within(LIMIT_S)
async def test_expired_and_not_found_tasks_wait_with_what_was_seen_of_them(make_rig: MakeRig) -> None:
    async def knows_nothing(request: Request, writer: asyncio.StreamWriter) -> None:
        words = {"job-1": "failed", "job-2": "processing", "job-3": "not_found"}
        writer.write(response(data(*(item(name, words[name]) for name in request.ids))))

    rig = await make_rig(max_refund_per_hour=400, words=NOT_FOUND_FAILS)
    async with FaultServer(knows_nothing) as server:
        channel = await rig.channel(server.url)
        await rig.task(channel, age_s=600.0, quota=900)
        await rig.task(channel, age_s=2 * LIFETIME_S)
        await rig.task(channel, age_s=600.0)
        # One of them is as much as an hour gives back.
        await rig.walk(channel)
        for _ in range(4):
            await at_least_one_interval_later(rig)
            await rig.walk(channel)
        rules = [entry["rule"] for entry in await rig.gateway.ledger()]
        assert len(rules) == 1
        for _ in range(2):
            await an_hour_later(rig)
            await rig.walk(channel)
    assert {entry["rule"] for entry in await rig.gateway.ledger()} == {"failed_word", "expired", "not_found_confirmed"}
    assert await rig.watched() == []


def test_the_setting_is_the_limit_of_every_lane() -> None:
    dsn = {"SQL_DSN": "postgres://gateway"}
    assert rules(load(dsn).settings).max_refund_per_hour is None
    assert rules(load(dsn | {"CUSTOM_PASS_MAX_REFUND_PER_HOUR": "5000"}).settings).max_refund_per_hour == 5000


@within(LIMIT_S)
async def test_what_a_person_gave_back_by_hand_does_not_count(make_rig: MakeRig) -> None:
    rig = await make_rig(max_refund_per_hour=100)
    async with FaultServer(fails) as server:
        channel = await rig.channel(server.url)
        for _ in range(2):
            await rig.task(channel)
        await rig.walk(channel)
        assert await rig.site.store.refunded_within_hour(channel) == 450
        await rig.gateway.connection.execute("UPDATE poller.ledger SET rule = 'operator'")
        assert await rig.site.store.refunded_within_hour(channel) == 0
        await rig.walk(channel)
    assert await open_tasks(rig) == 0


@within(LIMIT_S)
async def test_a_person_sees_which_refunds_wait_and_until_when(
    profile_name: str, make_rig: MakeRig, poller: Run
) -> None:
    rig = await make_rig(profile_name, max_refund_per_hour=1000)
    dsn = rig.gateway.dsn

    async def run(*command: str, **more: str) -> str:
        ran = await in_thread(poller, *command, SQL_DSN=dsn, **more)
        assert ran.code == 0, ran.err
        return ran.out

    limit = {"CUSTOM_PASS_MAX_REFUND_PER_HOUR": "1000"}
    async with FaultServer(fails) as server:
        channel = await rig.channel(server.url)
        tasks = [await rig.task(channel) for _ in range(5)]
        await rig.walk(channel)
        # There is room again when the oldest of the three that went back is an hour old.
        for pk, minutes in zip(tasks, (50, 40, 20), strict=False):
            when = "UPDATE poller.ledger SET settled_at = now() - make_interval(mins => $2) WHERE task_pk = $1"
            await rig.gateway.connection.execute(when, pk, minutes)
        room_at = await rig.gateway.connection.fetchval(
            "SELECT to_char((min(settled_at) + interval '1 hour') AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI')"
            " FROM poller.ledger"
        )
        waits = "2 refunds wait, 900 quota: what upstream called failed reached CUSTOM_PASS_MAX_REFUND_PER_HOUR"
        for command in (("status",), ("task", f"pk:{tasks[4]}")):
            told = await run(*command, **limit)
            assert f"{waits} (1350 of 1000 within the hour), until {room_at}" in told
            # Who asks without the daemon's limit is told what its lane noted.
            assert waits in await run(*command)
        assert "its own waits too, if it failed" in await run("task", f"pk:{tasks[4]}", **limit)
        assert "refunds of its channel" not in await run("task", f"pk:{tasks[0]}", **limit)
        await rig.gateway.connection.execute("UPDATE poller.ledger SET settled_at = settled_at - interval '10 min'")
        assert "until the next pass" in await run("status", **limit)
        await rig.walk(channel)
        assert await open_tasks(rig) == 1
