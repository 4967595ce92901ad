"""Deadlines are cancellations, and cancelled asks must cost nothing but themselves.

httpx's own pool is dead after 820 requests of this test: this is why another transport is under it.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import sys

import anyio
import pytest
from faults_server import ROUTE, FaultServer, Request, channel_at, good, limits, never_ends_its_headers

from poller.core.model import Kind
from poller.errors import AskFailed, AskReason
from poller.upstream.client import Client

ASKS = 900
AT_ONCE = 20
CONNECTIONS = 10


async def test_asks_cancelled_by_the_hundred_leave_every_connection_usable() -> None:
    chance = random.Random(11)
    is_slow = True

    async def answers_late(request: Request, writer: asyncio.StreamWriter) -> None:
        if is_slow:
            await asyncio.sleep(chance.choice((0.0, 0.004, 0.01, 0.02, 0.05)))
        await good(request, writer)

    reasons: set[AskReason] = set()
    timed_out = cancelled = 0
    async with FaultServer(answers_late) as server:
        channel = channel_at(server.url)
        client = Client(channel, limits(task_timeout_s=0.02, connections=CONNECTIONS))

        async def asks(count: int) -> None:
            nonlocal timed_out, cancelled
            for _ in range(count):
                with anyio.move_on_after(chance.choice((0.001, 0.005, 0.015, 10.0))) as scope:
                    try:
                        await client.ask(channel, ROUTE, ["t1"])
                    except AskFailed as failed:
                        reasons.add(failed.reason)
                        timed_out += 1
                cancelled += scope.cancelled_caught

        with anyio.fail_after(120):
            async with anyio.create_task_group() as group:
                for _ in range(AT_ONCE):
                    group.start_soon(asks, ASKS // AT_ONCE)
            # How many depends on how busy the machine is.
            assert timed_out + cancelled > ASKS // 4
            assert reasons == {AskReason.TIMEOUT}

            is_slow = False
            patient = channel_at(server.url, timeout_s=10.0)
            for number in range(20):
                answer = await client.ask(patient, ROUTE, [f"g{number}"])
                assert answer.reports[f"g{number}"].kind is Kind.SAID
            async with anyio.create_task_group() as group:
                for number in range(CONNECTIONS * 2):
                    group.start_soon(client.ask, patient, ROUTE, [f"h{number}"])
            await client.aclose()
            await server.until_open(0)


@pytest.mark.skipif(sys.platform != "linux", reason="open files are counted in /proc")
async def test_an_upstream_that_reads_no_request_keeps_no_connection_open() -> None:
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(50)
        channel = channel_at(f"http://127.0.0.1:{deaf.getsockname()[1]}")
        client = Client(channel, limits(task_timeout_s=0.1))
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(10):
            with pytest.raises(AskFailed) as caught:
                await client.ask(channel, ROUTE, ["x" * 50_000 + str(number) for number in range(100)])
            assert caught.value.reason is AskReason.TIMEOUT
        with anyio.fail_after(30):
            while len(os.listdir("/proc/self/fd")) > before:
                await anyio.sleep(0.02)
        await client.aclose()


async def test_ask_cancelled_from_outside_is_cancelled_and_nothing_else() -> None:
    is_asked = anyio.Event()

    async def says_when(request: Request, writer: asyncio.StreamWriter) -> None:
        is_asked.set()
        await never_ends_its_headers(request, writer)

    async with FaultServer(says_when) as server:
        client = Client(channel_at(server.url), limits())
        with anyio.fail_after(30):
            task = asyncio.create_task(client.ask(channel_at(server.url), ROUTE, ["t1"]))
            await is_asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await client.aclose()
            await server.until_open(0)
