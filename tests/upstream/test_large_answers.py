"""Answers made to cost memory and time: what one upstream sends is paid for by its own lane, and never without end."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
from collections.abc import Callable

import anyio
import pytest
from faults_server import (
    ROUTE,
    Close,
    FaultServer,
    Request,
    answer_of,
    channel_at,
    limits,
    replies,
    response,
)

from poller.core.model import Kind
from poller.errors import AskFailed, AskReason
from poller.upstream.body import LARGE_AT_ONCE, LARGE_FROM_BYTES
from poller.upstream.client import Client
from poller.upstream.wire import AROUND_LIMIT, ITEM_LIMIT, PAYLOAD_LIMIT, VALUE_LIMIT, read_answer

MIB = 1 << 20
LIMIT_S = 60


def body_of(items: str, around: str = "") -> bytes:
    return f'{{"code":0,{around}"data":[{items}]}}'.encode()


def full(unit: str, size: int) -> str:
    return unit * (size // len(unit))


def peak_of(work: Callable[[], object]) -> int:
    """Most bytes that *work* has in use at a time."""
    tracemalloc.start()
    try:
        work()
    except AskFailed:
        pass
    finally:
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return most


DONE = '{"task_id":"t1","status":"completed","result":'
HOSTILE = {
    "numbers": body_of(full("0,", 4 * MIB) + "0"),
    "lists": body_of(full("[],", 4 * MIB) + "0"),
    "strangers": body_of(full('{"task_id":"x"},', 4 * MIB) + "0"),
    "lists in one item": body_of(DONE + "[" + full("[],", 4 * MIB) + "0]}"),
    "objects in one item": body_of(DONE + "[" + full('{"a":1},', 4 * MIB) + "0]}"),
    "read strictly": body_of('{"task_id" :"t1","result":[' + full('{"a":1},', 4 * MIB) + "0]}"),
    "around the list": body_of("", '"x":[' + full('{"a":1},', 4 * MIB) + "0],"),
    "escaped pairs": body_of(DONE + '"' + full(r"\ud83d\ude00", MIB) + '"}'),
    "halves of pairs": body_of(DONE + '"' + full(r"\ud83d", MIB) + '"}'),
    "one long text": body_of(DONE + '"' + "a" * 4 * MIB + '"}'),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_no_answer_takes_up_more_than_a_few_times_its_size(kind: str) -> None:
    body = HOSTILE[kind]
    assert peak_of(lambda: read_answer(body, ["t1"])) < 6 * len(body)


def test_an_answer_has_so_many_items_and_no_more() -> None:
    most = body_of(",".join(['{"task_id":"t1","status":"failed"}'] + ["[1,2]"] * (ITEM_LIMIT - 1)))
    answer = read_answer(most, ["t1"])
    assert (answer.reports["t1"].word, answer.unreadable) == ("failed", ITEM_LIMIT - 1)
    with pytest.raises(AskFailed) as caught:
        read_answer(most[:-2] + b",0]}", ["t1"])
    assert (caught.value.reason, caught.value.is_batch_fault) == (AskReason.TOO_LARGE, True)


def test_an_item_with_more_values_than_can_be_meant_is_unreadable_and_spoils_no_other() -> None:
    huge = DONE + "[" + "0," * VALUE_LIMIT + "0]}"
    answer = read_answer(body_of(f'{huge},{{"task_id":"t2","status":"failed"}}'), ["t1", "t2", "t3"])
    assert [report.kind for report in answer.reports.values()] == [Kind.UNREADABLE, Kind.SAID, Kind.ABSENT]
    assert read_answer(body_of(huge.replace('"t1"', "null")), ["t1"]).reports["t1"].kind is Kind.UNPROVEN
    large = read_answer(body_of(DONE + "[" + "0.125," * (VALUE_LIMIT // 2) + "0]}"), ["t1"])
    assert large.reports["t1"].word == "completed"


def test_of_an_item_that_is_too_long_to_be_stored_the_beginning_is_kept() -> None:
    answer = read_answer(body_of(DONE + '"' + "a" * PAYLOAD_LIMIT + '"}'), ["t1"])
    report = answer.reports["t1"]
    assert (report.word, len(report.payload) < PAYLOAD_LIMIT // 64) == ("completed", True)
    assert report.payload.startswith(DONE.encode())


def test_what_stands_around_the_items_is_bounded() -> None:
    assert read_answer(body_of("", f'"msg":"{"a" * (AROUND_LIMIT - 100)}",'), ["t1"]).reports["t1"].kind is Kind.ABSENT
    with pytest.raises(AskFailed) as caught:
        read_answer(body_of("", f'"msg":"{"a" * AROUND_LIMIT}",'), ["t1"])
    assert caught.value.reason is AskReason.ENVELOPE


async def test_many_lanes_that_are_sent_bombs_at_once_take_up_the_memory_of_one() -> None:
    packed = gzip.compress(HOSTILE["lists in one item"])
    bombs = replies(packed, headers=["Content-Encoding: gzip"])
    with_limits = limits(max_response_bytes=8 * MIB, task_timeout_s=30.0)
    async with FaultServer(bombs) as server:
        clients = [Client(channel_at(server.url), with_limits) for _ in range(6)]
        tracemalloc.start()
        try:
            with anyio.fail_after(LIMIT_S):
                async with anyio.create_task_group() as asks:
                    for client in clients:
                        for _ in range(4):
                            asks.start_soon(client.ask, channel_at(server.url), ROUTE, ["t1"])
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        for client in clients:
            await client.aclose()
    assert most < 8 * 4 * MIB


async def test_a_failure_that_somebody_keeps_does_not_keep_the_body() -> None:
    async with FaultServer(replies(HOSTILE["numbers"])) as server:
        client = Client(channel_at(server.url), limits(max_response_bytes=8 * MIB))
        kept = []
        tracemalloc.start()
        try:
            for _ in range(5):
                with anyio.fail_after(LIMIT_S), pytest.raises(AskFailed) as caught:
                    await client.ask(channel_at(server.url), ROUTE, ["t1"])
                kept.append(caught.value)
            left, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        await client.aclose()
    assert left < 8 * MIB


@pytest.mark.parametrize("hostile", [1, LARGE_AT_ONCE - 1])
async def test_large_answers_that_never_end_take_no_room_from_other_lanes(hostile: int) -> None:
    stuck = asyncio.Semaphore(0)

    async def never_ends(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(response(b" " * 4 * MIB)[: 2 * LARGE_FROM_BYTES])
        await writer.drain()
        stuck.release()
        await asyncio.Event().wait()

    async def large(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(response(answer_of(request.ids) + b" " * 2 * LARGE_FROM_BYTES))
        await writer.drain()
        raise Close

    with_limits = limits(max_response_bytes=8 * MIB)
    async with FaultServer(never_ends) as bad, FaultServer(large) as good, anyio.create_task_group() as asks:
        clients = [Client(channel_at(bad.url), with_limits) for _ in range(hostile)]
        for client in clients:
            for _ in range(6):
                asks.start_soon(client.ask, channel_at(bad.url), ROUTE, ["t1"])
        client = Client(channel_at(good.url), with_limits)
        with anyio.fail_after(LIMIT_S):
            for _ in range(hostile):
                await stuck.acquire()
            answer = await client.ask(channel_at(good.url), ROUTE, ["t1"])
        assert answer.reports["t1"].word == "processing"
        asks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            for each in (*clients, client):
                await each.aclose()
