"""One channel's loop: its pace, what wakes it, what ends it, and what it leaves for the next holder."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from poller.core import breaker
from poller.errors import DatabaseAway
from poller.lane import Lane
from tests.bounded import within
from tests.test_walk import with_source
from tests.upstream.faults_server import FaultServer, Request, answer_of, good, hangs, response
from tests.upstream.rig import MakeRig, Rig

LIMIT_S = 60.0
LONG_S = 3600.0


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    while True:
        found = condition()
        if found if isinstance(found, bool) else await found:
            return
        await anyio.sleep(0.01)


@asynccontextmanager
async def running(rig: Rig, channel: int, interval_s: float = LONG_S) -> AsyncIterator[Lane]:
    """The lane of *channel* in its loop, for as long as the block lasts."""
    await rig.hold()
    lane = rig.lanes[channel] = rig.lanes.get(channel) or Lane(channel, rig.rules(interval_s=interval_s), rig.tools())
    async with anyio.create_task_group() as group:
        group.start_soon(lane.run)
        yield lane
        group.cancel_scope.cancel()


async def finishes(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(response(answer_of(request.ids, "completed")))


@within(LIMIT_S)
async def test_a_lane_walks_again_when_the_interval_has_passed(make_rig: MakeRig) -> None:
    rig = await make_rig()
    async with FaultServer(good) as server:
        channel = await rig.channel(server.url)
        await rig.task(channel)
        started = anyio.current_time()
        async with running(rig, channel, 0.2):
            await until(lambda: len(server.requests) >= 4)
        assert anyio.current_time() - started >= 0.6


@within(LIMIT_S)
async def test_a_lane_without_work_sleeps_until_it_has_some(make_rig: MakeRig) -> None:
    rig = await make_rig()
    async with FaultServer(good) as server:
        channel = await rig.channel(server.url)
        await rig.task(channel)
        await rig.hold()
        lane = rig.lane(channel)
        lane.set_flags(is_paused=False, has_work=False)
        async with running(rig, channel):
            await anyio.sleep(0.1)
            assert server.requests == []
            lane.set_flags(is_paused=False, has_work=True)
            await until(lambda: len(server.requests) == 1)


@within(LIMIT_S)
async def test_triggers_during_a_pass_make_one_more_pass_and_no_more(make_rig: MakeRig) -> None:
    asked, go_on = anyio.Event(), anyio.Event()

    async def waits(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.number == 1:
            asked.set()
            await go_on.wait()
        await good(request, writer)

    rig = await make_rig()
    async with FaultServer(waits) as server:
        channel = await rig.channel(server.url)
        await rig.task(channel)
        async with running(rig, channel) as lane:
            await asked.wait()
            for _ in range(5):
                lane.trigger()
            go_on.set()
            await until(lambda: len(server.requests) == 2)
            await anyio.sleep(0.2)
            assert len(server.requests) == 2


@within(LIMIT_S)
async def test_a_pause_ends_the_wait_for_a_dead_upstream_and_resuming_goes_on(make_rig: MakeRig) -> None:
    rig = await make_rig(batch_size=1, slots=1)

    async def dies(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.number <= breaker.OPENS_AFTER:
            writer.write(response(b"", "500 No"))
        else:
            await finishes(request, writer)

    async with FaultServer(dies) as server:
        channel = await rig.channel(server.url)
        tasks = [await rig.task(channel) for _ in range(12)]
        async with running(rig, channel, 0.1) as lane:
            await until(lambda: lane.asker.breaker.state == "open")
            lane.set_flags(is_paused=True, has_work=True)
            asked = len(server.requests)
            await anyio.sleep(0.3)
            assert len(server.requests) == asked
            lane.set_flags(is_paused=False, has_work=True)
            lane.trigger()

            async def are_settled() -> bool:
                return {await rig.state(pk) for pk in tasks} == {"SUCCESS"}

            await until(are_settled)


@within(LIMIT_S)
async def test_leaving_settles_what_was_asked_and_begins_nothing_new(make_rig: MakeRig) -> None:
    asked, go_on = anyio.Event(), anyio.Event()

    async def waits(request: Request, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await go_on.wait()
        await finishes(request, writer)

    rig = await make_rig(batch_size=1)
    async with FaultServer(waits) as server:
        channel = await rig.channel(server.url)
        tasks = [await rig.task(channel) for _ in range(20)]
        await rig.hold()
        lane = rig.lane(channel)
        async with anyio.create_task_group() as group:
            group.start_soon(lane.run)
            await asked.wait()
            await until(lambda: len(server.requests) == lane.asker.limit)
            lane.leave()
            go_on.set()
        states = [await rig.state(pk) for pk in tasks]
        assert states.count("SUCCESS") == len(server.requests) < 20


@within(LIMIT_S)
async def test_leaving_does_not_wait_for_a_dead_upstream(make_rig: MakeRig) -> None:
    rig = await make_rig(timeout_s=0.1, batch_size=1)
    async with FaultServer(hangs) as server:
        channel = await rig.channel(server.url)
        for _ in range(20):
            await rig.task(channel)
        await rig.hold()
        lane = rig.lane(channel)
        async with anyio.create_task_group() as group:
            group.start_soon(lane.run)
            await until(lambda: lane.asker.breaker.state == "open")
            started = anyio.current_time()
            lane.leave()
        assert anyio.current_time() - started < 2


@within(LIMIT_S)
async def test_a_lane_whose_lease_went_elsewhere_ends_by_itself(make_rig: MakeRig) -> None:
    rig = await make_rig()
    async with FaultServer(good) as server:
        channel = await rig.channel(server.url)
        await rig.task(channel)
        await rig.hold()
        await rig.gateway.connection.execute("UPDATE poller.lane SET holder = 'somebody else'")
        await rig.lane(channel).run()
        assert server.requests == []


@within(LIMIT_S)
async def test_outages_of_the_database_are_waited_out_and_nothing_is_called_a_crash(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = await make_rig()
    failures, waits, wait_out = 3, [], Lane.wait_out

    async def waited_out(self: Lane, seconds: float) -> None:
        waits.append(seconds)
        await wait_out(self, seconds)

    monkeypatch.setattr(Lane, "wait_out", waited_out)

    async def page(*args: Any) -> Any:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise DatabaseAway("lost", "in page")
        return await rig.site.store.page(*args)

    async with FaultServer(finishes) as server:
        channel = await rig.channel(server.url)
        pk = await rig.task(channel)
        with_source(rig, channel, page=page)
        async with running(rig, channel):

            async def is_settled() -> bool:
                return await rig.state(pk) == "SUCCESS"

            await until(is_settled)
    deferred = [event for event in rig.lines.events if event["event"] == "pass_deferred"]
    assert waits == [0.5, 1.0, 2.0]
    # Nobody reads the same line three times within seconds.
    assert [event["retry_in"] for event in deferred] == [0.5]


@within(LIMIT_S)
async def test_the_row_of_the_lane_shows_the_breaker_open_and_closed_again(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "FIRST_DELAY_S", 0.3)
    rig = await make_rig(batch_size=1, slots=1)

    async def heals(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.number <= breaker.OPENS_AFTER:
            writer.write(response(b"", "500 No"))
        else:
            await good(request, writer)

    async def shown() -> str:
        (lane,) = await rig.leases.lanes_overview()
        return str(lane["breaker"])

    async with FaultServer(heals) as server:
        channel = await rig.channel(server.url)
        for _ in range(12):
            await rig.task(channel)
        async with running(rig, channel):

            async def is_open() -> bool:
                return await shown() == "open"

            async def is_closed() -> bool:
                return await shown() == "closed"

            await until(is_open)
            await until(is_closed)


@within(LIMIT_S)
async def test_the_next_holder_goes_on_with_the_wait_of_the_last(make_rig: MakeRig) -> None:
    rig = await make_rig(batch_size=1)

    async def fails(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(response(b"", "503 No", ["Retry-After: 120"]))

    async with FaultServer(fails) as server:
        channel = await rig.channel(server.url)
        await rig.task(channel)
        await rig.walk(channel)
    state = (await rig.leases.beat()).lanes[0]
    successor = Lane(channel, rig.rules(), rig.tools())
    assert state.breaker_until_s is not None
    successor.asker.restore(state.breaker, state.breaker_until_s - state.now_s, state.breaker_failures)
    assert 110 < successor.asker.hold_s() <= 120


@within(LIMIT_S)
async def test_cancelling_a_lane_in_mid_ask_leaves_no_slot_and_no_client_behind(make_rig: MakeRig) -> None:
    rig = await make_rig()
    async with FaultServer(hangs) as server:
        channel = await rig.channel(server.url)
        await rig.task(channel)
        async with running(rig, channel):
            await until(lambda: len(server.requests) == 1)
        assert rig.gate._slots.in_use == 0
        assert rig.lane(channel).asker._client is None
