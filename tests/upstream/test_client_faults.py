"""Upstreams that break the rules of HTTP: each is an ``AskFailed`` in bounded time, and none harms the next ask."""

from __future__ import annotations

import asyncio
import socket
import tracemalloc
from time import monotonic

import anyio
import pytest
from faults_server import (
    ROUTE,
    Behaviour,
    FaultServer,
    Request,
    answer_of,
    channel_at,
    drips,
    floods_with_processing,
    good,
    hangs,
    limits,
    never_ends_its_headers,
    resets_in_the_body,
    sends,
    streams_for_ever,
    truncates,
)

from poller.errors import AskFailed, AskReason
from poller.upstream.client import Client

DEADLINE_S = 0.5
BODY = answer_of(["t1"], "failed")


async def failure_of(url: str, client: Client | None = None) -> AskFailed:
    client = client or Client(channel_at(url), limits(task_timeout_s=DEADLINE_S))
    with anyio.fail_after(30):
        with pytest.raises(AskFailed) as caught:
            await client.ask(channel_at(url), ROUTE, ["t1"])
        await client.aclose()
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None
    return caught.value


async def test_preliminary_answers_without_end_are_given_up_at_once_and_a_few_are_not() -> None:
    """Reading them takes the loop as long as they come: whoever else asks would wait for it."""

    async def floods(request: Request, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"HTTP/1.1 102 P\r\n\r\n" * 5000)
            await writer.drain()

    async def hints(request: Request, writer: asyncio.StreamWriter) -> None:
        hint = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" + hint * 3)
        await good(request, writer)

    async with FaultServer(floods) as server:
        client = Client(channel_at(server.url), limits(task_timeout_s=30.0))
        assert (await failure_of(server.url, client)).reason is AskReason.NETWORK
    async with FaultServer(hints) as server:
        client = Client(channel_at(server.url), limits())
        assert (await client.ask(channel_at(server.url), ROUTE, ["t1"])).reports["t1"].word == "processing"
        await client.aclose()


async def test_refused_connection_is_a_connect_failure() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert (await failure_of(f"http://127.0.0.1:{unused.getsockname()[1]}")).reason is AskReason.CONNECT


async def test_name_that_does_not_exist_is_a_connect_failure() -> None:
    failed = await failure_of("http://nosuch.invalid")
    assert failed.reason in (AskReason.CONNECT, AskReason.TIMEOUT)


async def test_server_that_accepts_and_says_nothing_is_a_time_out() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        assert (await failure_of(f"http://127.0.0.1:{deaf.getsockname()[1]}")).reason is AskReason.TIMEOUT


@pytest.mark.parametrize("behaviour", [hangs, drips, floods_with_processing, never_ends_its_headers])
async def test_one_deadline_ends_what_read_time_outs_never_would(behaviour: Behaviour) -> None:
    async with FaultServer(behaviour) as server:
        started = monotonic()
        failed = await failure_of(server.url)
    assert failed.reason in (AskReason.TIMEOUT, AskReason.NETWORK)
    assert monotonic() - started < 10


@pytest.mark.parametrize("behaviour", [resets_in_the_body, truncates])
async def test_half_an_answer_is_no_answer(behaviour: Behaviour) -> None:
    async with FaultServer(behaviour) as server:
        assert (await failure_of(server.url)).reason is AskReason.NETWORK


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x00\xff\x80garbage",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n" + BODY,
        b"HTTP/1.1 20000 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n" + BODY,
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n" + BODY,
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * (1 << 20) + b"\r\n\r\n" + BODY,
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50_000 + b"\r\n" + BODY,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n" + BODY,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n" + BODY,
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"cod\r\n',
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n<html></html>",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_nonsense_is_no_evidence(raw: bytes) -> None:
    async with FaultServer(sends(raw)) as server:
        failed = await failure_of(server.url)
    assert failed.reason in (AskReason.NETWORK, AskReason.NOT_JSON, AskReason.HTTP_STATUS, AskReason.TIMEOUT)


async def test_endless_body_costs_no_more_memory_than_the_cap() -> None:
    async with FaultServer(streams_for_ever) as server:
        client = Client(channel_at(server.url), limits(max_response_bytes=1 << 20, task_timeout_s=20.0))
        tracemalloc.start()
        try:
            failed = await failure_of(server.url, client)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert failed.reason is AskReason.TOO_LARGE
    assert peak < 8 << 20


async def test_upstream_is_asked_again_as_soon_as_it_heals() -> None:
    faults: list[Behaviour] = [hangs, truncates, resets_in_the_body, sends(b"garbage"), sends(b""), drips]

    async def heals(request: Request, writer: asyncio.StreamWriter) -> None:
        behaviour = faults[request.number - 1] if request.number <= len(faults) else good
        await behaviour(request, writer)

    async with FaultServer(heals) as server:
        client = Client(channel_at(server.url), limits(task_timeout_s=DEADLINE_S))
        with anyio.fail_after(60):
            for _ in faults:
                with pytest.raises(AskFailed):
                    await client.ask(channel_at(server.url), ROUTE, ["t1"])
            answer = await client.ask(channel_at(server.url), ROUTE, ["t1"])
            await client.aclose()
    assert answer.reports["t1"].word == "processing"
