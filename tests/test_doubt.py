"""An upstream in doubt: over one id, one model, one client or an old address, and who is asked about meanwhile."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import anyio
import pytest

from poller.core import breaker
from tests.upstream.faults_server import Close, FaultServer, Request, answer_of, hangs, replies, reset, response
from tests.upstream.rig import INTERVAL_S, LIMIT_S, MakeRig, Rig

Stumble = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


async def drops(request: Request, writer: asyncio.StreamWriter) -> None:
    reset(writer)
    raise Close


STUMBLES: dict[str, Stumble] = {
    "hangs": hangs,
    "drops": drops,
    "500": replies(b"KeyError", "500 Internal Server Error"),
    "502": replies(b"<html>", "502 Bad Gateway"),
}


def stumbles_over(bad: str, how: Stumble, *, unfinished: str = "") -> Stumble:
    """Finishes every task but those of model *unfinished*; does *how* whenever *bad* is among the ids."""

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        if bad in request.ids:
            await how(request, writer)
        else:
            is_open = unfinished and unfinished in request.line
            writer.write(response(answer_of(request.ids, "processing" if is_open else "completed")))

    return behave


async def passes_until_settled(rig: Rig, channel: int, tasks: list[int], most: int) -> int:
    """How many passes it took until all *tasks* were settled."""
    for number in range(1, most + 1):
        await rig.walk(channel)
        if {await rig.state(pk) for pk in tasks} == {"SUCCESS"}:
            return number
    raise AssertionError(f"open after {most} passes: {[pk for pk in tasks if await rig.state(pk) != 'SUCCESS']}")


@pytest.mark.parametrize("how", STUMBLES)
async def test_an_id_over_which_upstream_stumbles_costs_its_neighbours_a_few_passes(
    how: str, make_rig: MakeRig, hasty_breaker: None
) -> None:
    rig = await make_rig(timeout_s=0.3)
    behaviour = stumbles_over("job-7", STUMBLES[how], unfinished="other")
    async with FaultServer(behaviour) as server:
        channel = await rig.channel(server.url)
        tasks = [await rig.task(channel) for _ in range(50)]
        for _ in range(60):
            await rig.task(channel, action="other/submit")
        bad = tasks.pop(6)
        assert await passes_until_settled(rig, channel, tasks, 10) <= 7
        # Alone from then on, whereas all others are asked about together.
        server.requests.clear()
        await rig.walk(channel)
        sizes = sorted(len(request.ids) for request in server.requests if request.ids != ["job-7"])
        assert sizes == [10, 50]
    assert await rig.state(bad) == "IN_PROGRESS"


@pytest.mark.parametrize("how", ["drops", "500"])
async def test_the_only_batch_of_a_lane_is_narrowed_too(how: str, make_rig: MakeRig, hasty_breaker: None) -> None:
    rig = await make_rig()
    async with FaultServer(stumbles_over("job-3", STUMBLES[how])) as server:
        channel = await rig.channel(server.url)
        tasks = [await rig.task(channel) for _ in range(20)]
        tasks.pop(2)
        assert await passes_until_settled(rig, channel, tasks, 10) <= 6


async def test_an_outage_narrows_nothing(make_rig: MakeRig, hasty_breaker: None) -> None:
    is_up = False

    async def comes_back(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(response(answer_of(request.ids)) if is_up else response(b"", "503 Unavailable"))

    rig = await make_rig()
    async with FaultServer(comes_back) as server:
        channel = await rig.channel(server.url)
        for _ in range(120):
            await rig.task(channel)
        await rig.walk(channel, passes=6)
        is_up = True
        await rig.walk(channel)
        server.requests.clear()
        await rig.walk(channel)
        assert [len(request.ids) for request in server.requests] == [50, 50, 20]


async def test_a_dead_model_or_a_client_whose_token_fails_keeps_nobody_waiting(
    make_rig: MakeRig, hasty_breaker: None
) -> None:
    def props(token: str) -> str:
        inner = {"payload": {}, "token": token, "headerKey": "X-Custom-Token"}
        return json.dumps({"input": json.dumps(inner)})

    async def half_dead(request: Request, writer: asyncio.StreamWriter) -> None:
        if "/dead/" in request.line or request.headers.get("x-custom-token") == "tok-bad":
            writer.write(response(b"", "503 Unavailable"))
        else:
            writer.write(response(answer_of(request.ids, "completed")))

    rig = await make_rig("fork", batch_size=5)
    async with FaultServer(half_dead) as server:
        channel = await rig.channel(server.url)
        for _ in range(60):
            await rig.task(channel, action="dead/submit")
        for _ in range(60):
            await rig.task(channel, properties=props("tok-bad"))
        good = [await rig.task(channel, properties=props("tok-good")), await rig.task(channel)]
        await rig.walk(channel)
        assert {await rig.state(pk) for pk in good} == {"SUCCESS"}
        # Those that were under way when the breaker opened, and a few probes of each of the two that are dead.
        assert len(server.requests) <= 10 + rig.lane(channel).asker.limit + 2 * 4
        # Upstream answers again, so what was passed over waits for the next pass, and nobody is asked about too often.
        assert rig.lane(channel)._due_at > anyio.current_time() + INTERVAL_S / 2


async def test_a_bad_id_that_is_all_there_was_keeps_nobody_waiting_who_comes_after_it(
    make_rig: MakeRig, hasty_breaker: None
) -> None:
    rig = await make_rig()
    async with FaultServer(stumbles_over("job-1", STUMBLES["500"])) as server:
        channel = await rig.channel(server.url)
        await rig.task(channel)
        await rig.walk(channel, passes=6)
        assert rig.lane(channel).asker.breaker.state == "open"
        tasks = [await rig.task(channel) for _ in range(90)]
        assert await passes_until_settled(rig, channel, tasks, 3) <= 2


async def test_an_outage_after_which_one_id_is_bad_ends_for_all_others(make_rig: MakeRig, hasty_breaker: None) -> None:
    is_up = False

    async def comes_back(request: Request, writer: asyncio.StreamWriter) -> None:
        is_good = is_up and "job-1" not in request.ids
        writer.write(response(answer_of(request.ids, "completed")) if is_good else response(b"", "503 Unavailable"))

    rig = await make_rig()
    async with FaultServer(comes_back) as server:
        channel = await rig.channel(server.url)
        tasks = [await rig.task(channel) for _ in range(120)]
        await rig.walk(channel, passes=6)
        is_up = True
        assert await passes_until_settled(rig, channel, tasks[1:], 12) <= 10


async def test_while_all_clients_are_to_wait_no_pass_follows_another_at_once(
    make_rig: MakeRig, hasty_breaker: None
) -> None:
    async def is_busy(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(response(b"", "503 Unavailable", ["Retry-After: 120"]))

    rig = await make_rig("fork", batch_size=2)
    async with FaultServer(is_busy) as server:
        channel = await rig.channel(server.url)
        for number in range(8):
            inner = {"payload": {}, "token": f"tok-{number}", "headerKey": "X-Custom-Token"}
            for _ in range(4):
                await rig.task(channel, properties=json.dumps({"input": json.dumps(inner)}))
        await rig.walk(channel)
        assert rig.lane(channel).asker.breaker.state != "closed"
        await rig.walk(channel)
        assert rig.lane(channel)._due_at > anyio.current_time() + 0.9 * breaker.LAST_DELAY_S


async def test_a_person_who_asks_for_a_poll_has_everybody_asked_about_whoever_had_a_turn_before(
    make_rig: MakeRig, hasty_breaker: None
) -> None:
    is_up = False

    async def comes_back(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(response(answer_of(request.ids, "completed")) if is_up else response(b"", "503 Unavailable"))

    rig = await make_rig(batch_size=5)
    async with FaultServer(comes_back) as server:
        channel = await rig.channel(server.url)
        tasks = [await rig.task(channel) for _ in range(120)]
        await rig.walk(channel)
        is_up = True
        rig.lane(channel).trigger()
        await rig.walk(channel)
        assert {await rig.state(pk) for pk in tasks} == {"SUCCESS"}


async def test_a_pass_that_was_broken_off_takes_no_turn_from_the_next(make_rig: MakeRig, hasty_breaker: None) -> None:
    is_up = False

    async def comes_back(request: Request, writer: asyncio.StreamWriter) -> None:
        if not is_up and rig.lane(channel).asker.is_probing:
            rig.lane(channel).set_flags(is_paused=True, has_work=True)
        writer.write(response(answer_of(request.ids, "completed")) if is_up else response(b"", "503 Unavailable"))

    rig = await make_rig()
    async with FaultServer(comes_back) as server:
        channel = await rig.channel(server.url)
        pk = await rig.task(channel)
        await rig.walk(channel, passes=6)
        assert rig.lane(channel).is_paused
        is_up = True
        rig.lane(channel).set_flags(is_paused=False, has_work=True)
        await rig.walk(channel)
        assert await rig.state(pk) == "SUCCESS"


async def test_a_pass_that_passed_some_over_and_ends_in_doubt_is_followed_by_one_as_soon_as_upstream_may_be_asked(
    make_rig: MakeRig, hasty_breaker: None
) -> None:
    rig = await make_rig(batch_size=5)
    async with FaultServer(replies(b"", "503 Unavailable")) as server:
        channel = await rig.channel(server.url)
        for model in ("one/submit", "two/submit"):
            for _ in range(60):
                await rig.task(channel, action=model)
        await rig.walk(channel)
        # Those that were under way when the breaker opened, and a few probes of each.
        assert len(server.requests) <= 10 + rig.lane(channel).asker.limit + 2 * 4
        assert rig.lane(channel)._due_at < anyio.current_time() + 1


@pytest.mark.parametrize("what", ["base_url", "key"])
async def test_a_row_that_is_mended_while_upstream_is_in_doubt_is_used_by_the_next_probe(
    what: str, make_rig: MakeRig, hasty_breaker: None
) -> None:
    async def refuses_the_old_key(request: Request, writer: asyncio.StreamWriter) -> None:
        is_good = request.headers["authorization"] == "Bearer sk-new"
        writer.write(response(answer_of(request.ids, "completed")) if is_good else response(b"", "401 Unauthorized"))

    rig = await make_rig(batch_size=2)
    async with FaultServer(refuses_the_old_key) as server:
        dead = "http://127.0.0.1:1"
        channel = await rig.channel(server.url if what == "key" else dead, key="sk-old" if what == "key" else "sk-new")
        tasks = [await rig.task(channel) for _ in range(60)]
        await rig.hold()
        lane = rig.lane(channel)
        async with anyio.create_task_group() as group:
            group.start_soon(lane.run)
            with anyio.fail_after(LIMIT_S):
                while lane.asker.breaker.state == "closed":
                    await anyio.sleep(0.01)
                value = "sk-new" if what == "key" else server.url
                await rig.gateway.connection.execute(f"UPDATE channels SET {what} = $1 WHERE id = $2", value, channel)
                while {await rig.state(pk) for pk in tasks} != {"SUCCESS"}:
                    await anyio.sleep(0.02)
            lane.leave()
