"""One pass and an exit: it heeds a pause as the fleet does, and what it prints is not upstream's to form."""

from __future__ import annotations

import asyncio
import dataclasses
import io
from collections.abc import Sequence

import anyio
import pytest

from poller.errors import Incomplete
from poller.lane import Lane
from poller.oneshot import NoLeases, Rehearsal, once, rehearse
from poller.postgres.leases import Beat
from tests.bounded import within
from tests.upstream.faults_server import FaultServer, Request, answer_of, response
from tests.upstream.rig import MakeRig

LIMIT_S = 60.0


@pytest.mark.parametrize("is_for_all", [False, True])
@within(LIMIT_S)
async def test_a_pause_ends_the_pass_that_is_under_way(is_for_all: bool, make_rig: MakeRig) -> None:
    rig = await make_rig(batch_size=1, slots=1)
    lanes: list[Lane] = []

    def open_lane(channel_id: int) -> Lane:
        lanes.append(rig.lane(channel_id))
        return lanes[-1]

    async def pauses(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.number == 1:
            await rig.leases.pause(None if is_for_all else channel, "second_writer")
        while not lanes[0].is_paused:
            await anyio.sleep(0.01)
        writer.write(response(answer_of(request.ids, "completed")))

    async with FaultServer(pauses) as server:
        channel = await rig.channel(server.url)
        for _ in range(20):
            await rig.task(channel)
        with pytest.raises(Incomplete, match=f"channel {channel}: paused"):
            await once(rig.leases, open_lane, 0.05)
        assert len(await rig.gateway.ledger()) == len(server.requests) < 20


@within(LIMIT_S)
async def test_a_rehearsal_says_each_settlement_in_one_line_and_writes_nothing(make_rig: MakeRig) -> None:
    async def fails(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(response(answer_of(request.ids, "failed")))

    rig = await make_rig()
    said = io.StringIO()
    tools = dataclasses.replace(rig.tools(), source=Rehearsal(rig.site.store, said), leases=NoLeases())
    async with FaultServer(fails) as server:
        channel = await rig.channel(server.url)
        await rig.task(channel, task_id="odd\x1b[2J\nwould settle task=99")
        before = await rig.picture()
        await rehearse([channel], lambda channel_id: Lane(channel_id, rig.rules(), tools))
        assert await rig.picture() == before
    (line,) = said.getvalue().splitlines()
    assert line.startswith("would settle task=1 task_id=odd")
    assert "outcome=failure reserved=450 charged=0 refunded=450" in line
    assert "\x1b" not in line


@within(LIMIT_S)
async def test_a_channel_that_another_replica_took_meanwhile_was_not_asked(make_rig: MakeRig) -> None:
    rig = await make_rig()

    class Overtaken:
        async def beat(self, *, is_leaving: bool = False) -> Beat:
            beat = await rig.leases.beat(is_leaving=is_leaving)
            await rig.gateway.connection.execute("UPDATE poller.lane SET holder = 'somebody else'")
            return beat

        async def release(self, channel_ids: Sequence[int] | None = None) -> None:
            await rig.leases.release(channel_ids)

    async def finishes(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(response(answer_of(request.ids, "completed")))

    async with FaultServer(finishes) as server:
        channel = await rig.channel(server.url)
        await rig.task(channel)
        with pytest.raises(Incomplete, match=f"channel {channel}: leased by another replica"):
            await once(Overtaken(), rig.lane, 10.0)
        assert server.requests == []
