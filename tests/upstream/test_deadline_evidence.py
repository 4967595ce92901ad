"""Past its deadline silence ends a task, so here silence must be upstream's own, and about that very task."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.upstream.faults_server import FaultServer, Request, answer_of, response
from tests.upstream.rig import LIFETIME_S, MakeRig


@pytest.mark.parametrize("extra", [[], ["job-51"]], ids=["silent", "old"])
async def test_an_answer_too_many_ends_no_task_that_is_past_its_deadline(extra: list[str], make_rig: MakeRig) -> None:
    """It names no stranger, so nothing in it shows that it was not meant for the next request."""

    async def talkative(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(response(answer_of(request.ids, "completed")))
        if request.number == 1:
            # Once the connection is in use again: what comes while it is idle is noticed.
            await writer.drain()
            await asyncio.sleep(0.01)
            writer.write(response(answer_of(extra, "processing")))

    rig = await make_rig(slots=1)
    async with FaultServer(talkative) as server:
        channel = await rig.channel(server.url)
        tasks = [await rig.task(channel) for _ in range(50)]
        tasks.append(await rig.task(channel, age_s=2 * LIFETIME_S))
        await rig.walk(channel)
        assert [len(request.ids) for request in server.requests] == [50, 1]
        assert [request.connection for request in server.requests] == [1, 2]
    assert {await rig.state(pk) for pk in tasks} == {"SUCCESS"}


async def test_whatever_is_past_its_deadline_has_a_connection_of_its_own_and_leaves_none_behind(
    make_rig: MakeRig,
) -> None:
    async def forgets(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(response(answer_of([], "processing")))

    rig = await make_rig(batch_size=1, slots=1)
    async with FaultServer(forgets) as server:
        channel = await rig.channel(server.url)
        for age_s in (2 * LIFETIME_S, 60, 2 * LIFETIME_S, 60):
            await rig.task(channel, age_s=age_s)
        await rig.walk(channel)
        by_id = {request.ids[0]: request.connection for request in server.requests}
        assert len({by_id["job-1"], by_id["job-2"], by_id["job-3"]}) == 3
        await rig.lane(channel).asker.close()
        await server.until_open(0)


@pytest.mark.parametrize(
    "odd",
    [
        [{"task_id": "somebody-else", "status": "processing"}],
        [{"error": "too many ids"}],
        [{"task_id": "job-1", "status": 7}],
    ],
    ids=["of a stranger", "of nobody", "unreadable"],
)
async def test_an_answer_that_tells_of_none_makes_silence_about_as_many_no_more_credible(
    odd: list[dict[str, object]], make_rig: MakeRig
) -> None:
    async def tells_of_few(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.number == 1:
            writer.write(response(json.dumps({"code": 0, "data": odd}).encode()))
        else:
            writer.write(response(answer_of(request.ids if len(request.ids) <= 3 else [], "completed")))

    rig = await make_rig(batch_size=8, slots=1)
    async with FaultServer(tells_of_few) as server:
        channel = await rig.channel(server.url)
        tasks = [await rig.task(channel, age_s=2 * LIFETIME_S) for _ in range(16)]
        await rig.walk(channel)
    assert "FAILURE" not in {await rig.state(pk) for pk in tasks}
