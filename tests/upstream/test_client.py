"""Asks over real connections: what is sent, what each answer comes to, and what is left behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import time

import anyio
import pytest
from faults_server import (
    KEY,
    ROUTE,
    TOKEN,
    Behaviour,
    Close,
    FaultServer,
    Request,
    answer_of,
    bomb,
    channel_at,
    good,
    gzipped,
    hangs,
    limits,
    replies,
    response,
    sends,
)

from poller.core.model import Kind, Route, Secret
from poller.errors import AskFailed, AskReason
from poller.upstream import client as client_module
from poller.upstream.client import Client, Limits


@asynccontextmanager
async def asked_of(
    behaviour: Behaviour, with_limits: Limits | None = None
) -> AsyncIterator[tuple[FaultServer, Client]]:
    async with FaultServer(behaviour) as server:
        client = Client(channel_at(server.url), with_limits or limits())
        with anyio.fail_after(60):
            try:
                yield server, client
            finally:
                await client.aclose()


async def failure(client: Client, server: FaultServer, **more: object) -> AskFailed:
    with pytest.raises(AskFailed) as caught:
        await client.ask(channel_at(server.url, **more), ROUTE, ["t1"])
    return caught.value


async def test_ask_sends_what_the_contract_says() -> None:
    async with asked_of(good) as (server, client):
        route = Route("flux/pro 1/submit", Secret(KEY), Secret(TOKEN), "X-My-Token")
        answer = await client.ask(channel_at(server.url + "/base"), route, ["t1", "t2"])
    (request,) = server.requests
    assert request.line == "POST /base/flux/pro%201/task/list-by-condition HTTP/1.1"
    assert json.loads(request.body) == {"task_ids": ["t1", "t2"]}
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["x-my-token"] == TOKEN
    assert request.headers["user-agent"].startswith("custompass-poller/")
    assert request.headers["host"] == f"127.0.0.1:{server.port}"
    assert "cookie" not in request.headers
    assert [report.word for report in answer.reports.values()] == ["processing"] * 2


async def test_percent_signs_of_a_model_reach_the_wire_encoded() -> None:
    async with asked_of(good) as (server, client):
        await client.ask(channel_at(server.url), Route("%2e%2e/a?b/submit", Secret(KEY), None, ""), ["t1"])
    assert server.requests[0].line.split()[1] == "/%252e%252e/a%3Fb/task/list-by-condition"


async def test_client_token_goes_in_the_channels_header_when_the_task_names_none() -> None:
    async with asked_of(good) as (server, client):
        await client.ask(channel_at(server.url), Route("m", Secret(KEY), Secret(TOKEN), ""), ["t1"])
        await client.ask(channel_at(server.url), Route("m", Secret(KEY), None, "X-My-Token"), ["t1"])
    assert server.requests[0].headers["x-custom-token"] == TOKEN
    assert not {"x-custom-token", "x-my-token"} & set(server.requests[1].headers)


async def test_asks_one_after_another_share_a_connection() -> None:
    async with asked_of(good) as (server, client):
        for _ in range(5):
            await client.ask(channel_at(server.url), ROUTE, ["t1"])
        assert server.connections == 1


@pytest.mark.parametrize(
    ("key", "token", "header"),
    [
        (None, None, ""),
        ("", None, ""),
        (KEY + "\n", None, ""),
        (KEY + "\r\nX: y", None, ""),
        ("ключ", None, ""),
        ("two words", None, ""),
        ("k" * 513, None, ""),
        (KEY, TOKEN + "\0", "X-T"),
        (KEY, TOKEN, "X T"),
        (KEY, TOKEN, "X-T\r\nX"),
        (KEY, TOKEN, "Authorization"),
        (KEY, TOKEN, "content-length"),
    ],
)
async def test_header_that_cannot_be_is_refused_before_anything_is_sent(
    key: str | None, token: str | None, header: str
) -> None:
    async with asked_of(good) as (server, client):
        route = Route("m", Secret(key) if key is not None else None, Secret(token) if token else None, header)
        with pytest.raises(AskFailed) as caught:
            await client.ask(channel_at(server.url), route, ["t1"])
    assert caught.value.reason is AskReason.BAD_REQUEST_PARTS
    assert server.connections == 0
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "reason", "is_batch_fault"),
    [
        ("204 No Content", AskReason.HTTP_STATUS, False),
        ("206 Partial", AskReason.HTTP_STATUS, False),
        ("302 Found", AskReason.REDIRECT, False),
        ("304 Not Modified", AskReason.REDIRECT, False),
        ("400 Bad Request", AskReason.CLIENT_ERROR, True),
        ("401 Unauthorized", AskReason.AUTH, False),
        ("403 Forbidden", AskReason.AUTH, False),
        ("404 Not Found", AskReason.CLIENT_ERROR, False),
        ("408 Request Timeout", AskReason.CLIENT_ERROR, False),
        ("413 Too Large", AskReason.CLIENT_ERROR, True),
        ("414 URI Too Long", AskReason.CLIENT_ERROR, True),
        ("422 Unprocessable", AskReason.CLIENT_ERROR, True),
        ("429 Too Many", AskReason.RATE_LIMITED, False),
        ("500 Error", AskReason.SERVER_ERROR, False),
        ("502 Bad Gateway", AskReason.SERVER_ERROR, False),
        ("599 X", AskReason.SERVER_ERROR, False),
        ("999 X", AskReason.HTTP_STATUS, False),
    ],
)
async def test_any_status_but_200_is_no_evidence(status: str, reason: AskReason, is_batch_fault: bool) -> None:
    body = b"" if status[:3] in ("204", "304") else answer_of(["t1"], "failed")
    async with asked_of(replies(body, status)) as (server, client):
        failed = await failure(client, server)
    assert (failed.reason, failed.is_batch_fault) == (reason, is_batch_fault)
    assert failed.http_status == int(status[:3])


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [
        ("7", 7, 7),
        ("0", 0, 0),
        ("1000000000", 300, 300),
        ("Fri, 01 Jan 2100 00:00:00 GMT", 300, 300),
        ("-1", None, None),
        ("soon", None, None),
        ("nan", None, None),
        ("Thu, 01 Jan 1970 00:00:30 GMT", None, None),
    ],
)
async def test_retry_after_is_read_and_capped(header: str, low: float | None, high: float | None) -> None:
    async with asked_of(replies(b"", "429 Too Many", [f"Retry-After: {header}"])) as (server, client):
        wish_s = (await failure(client, server)).retry_after_s
    assert wish_s == low if low is None or wish_s is None else low <= wish_s <= (high or 0)


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
async def test_redirect_is_not_followed(status: str) -> None:
    async with (
        FaultServer(good) as elsewhere,
        asked_of(replies(b"", status, [f"Location: {elsewhere.url}/x"])) as (server, client),
    ):
        assert (await failure(client, server)).reason is AskReason.REDIRECT
        assert elsewhere.connections == 0


async def test_redirect_to_nonsense_is_still_a_redirect() -> None:
    async with asked_of(replies(b"", "302 Found", ["Location: http://[nonsense"])) as (server, client):
        assert (await failure(client, server)).reason is AskReason.REDIRECT


async def test_cookies_are_never_sent_back() -> None:
    async def sets_cookie(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(response(answer_of(request.ids), headers=["Set-Cookie: a=b; Path=/", "Set-Cookie: c=d"]))

    async with asked_of(sets_cookie) as (server, client):
        for _ in range(3):
            await client.ask(channel_at(server.url), ROUTE, ["t1"])
    assert all("cookie" not in request.headers for request in server.requests)


async def test_gzip_that_nobody_asked_for_is_decoded() -> None:
    async with asked_of(sends(gzipped(answer_of(["t1"])))) as (server, client):
        answer = await client.ask(channel_at(server.url), ROUTE, ["t1"])
    assert answer.reports["t1"].word == "processing"


async def test_gzip_bomb_is_cut_at_the_cap() -> None:
    async with asked_of(sends(bomb(200 << 20))) as (server, client):
        failed = await failure(client, server)
    assert (failed.reason, failed.is_batch_fault) == (AskReason.TOO_LARGE, True)


@pytest.mark.parametrize("encoding", ["br", "zstd", "deflate", "gzip, gzip", "identity, gzip", "x"])
async def test_other_encodings_are_refused(encoding: str) -> None:
    body = replies(answer_of(["t1"]), headers=[f"Content-Encoding: {encoding}"])
    async with asked_of(body) as (server, client):
        assert (await failure(client, server)).reason is AskReason.ENCODING


@pytest.mark.parametrize("cut", [slice(None, -4), slice(None, 5), slice(2, None)])
async def test_gzip_that_is_broken_is_refused(cut: slice) -> None:
    whole = gzipped(answer_of(["t1"]))
    head, _, packed = whole.partition(b"\r\n\r\n")
    packed = packed[cut]
    head = b"\r\n".join(line for line in head.split(b"\r\n") if not line.startswith(b"Content-Length"))
    raw = head + b"\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed
    async with asked_of(sends(raw)) as (server, client):
        assert (await failure(client, server)).reason is AskReason.ENCODING


async def test_answer_above_the_cap_is_not_read() -> None:
    async with asked_of(replies(answer_of(["t1"])), limits(max_response_bytes=20)) as (server, client):
        failed = await failure(client, server)
    assert (failed.reason, failed.is_batch_fault) == (AskReason.TOO_LARGE, True)


async def test_answer_at_the_cap_is_read() -> None:
    body = answer_of(["t1"])
    async with asked_of(replies(body), limits(max_response_bytes=len(body))) as (server, client):
        assert (await client.ask(channel_at(server.url), ROUTE, ["t1"])).reports["t1"].word == "processing"


async def test_large_answer_is_read_off_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    plain = client_module.anyio.to_thread.run_sync

    async def counted(*args: object, **more: object) -> object:
        threads.append(1)
        return await plain(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("anyio.to_thread.run_sync", counted)
    ids = [f"task-{number:05d}" for number in range(2000)]
    async with asked_of(good) as (server, client):
        answer = await client.ask(channel_at(server.url), ROUTE, ids)
        assert len(threads) == 1
        await client.ask(channel_at(server.url), ROUTE, ids[:5])
    assert (len(threads), len(answer.reports)) == (1, 2000)


async def test_channels_own_time_out_wins_over_the_common_one() -> None:
    async with asked_of(hangs, limits(task_timeout_s=50.0)) as (server, client):
        started = time()
        failed = await failure(client, server, timeout_s=0.2)
    assert failed.reason is AskReason.TIMEOUT
    assert time() - started < 5


async def test_silence_ends_an_ask_before_its_deadline() -> None:
    async with asked_of(hangs, limits(task_timeout_s=50.0, http_timeout_s=0.2)) as (server, client):
        started = time()
        failed = await failure(client, server)
    assert (failed.reason, failed.detail) == (AskReason.TIMEOUT, "read timeout")
    assert time() - started < 5


async def test_connection_with_strangers_in_its_answer_is_not_used_again() -> None:
    async def mixes_up_the_first(request: Request, writer: asyncio.StreamWriter) -> None:
        ids = ["t1", "not-ours"] if request.number == 1 else request.ids
        writer.write(response(answer_of(ids)))

    async with asked_of(mixes_up_the_first) as (server, client):
        first = await client.ask(channel_at(server.url), ROUTE, ["t1", "t2"])
        second = await client.ask(channel_at(server.url), ROUTE, ["t1"])
    assert (first.strangers, first.reports["t1"].word, first.reports["t2"].kind) == (1, "processing", Kind.UNPROVEN)
    assert second.strangers == 0
    assert [request.connection for request in server.requests] == [1, 2]


async def test_one_answer_too_many_shifts_no_later_ask_for_long() -> None:
    is_poisoned = anyio.Event()

    async def answers_twice_at_first(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(response(answer_of(request.ids)))
        if request.number == 1:
            await writer.drain()
            await asyncio.sleep(0.05)
            writer.write(response(answer_of(["poison"], "failed")))
            await writer.drain()
            is_poisoned.set()

    async with asked_of(answers_twice_at_first) as (server, client):
        await client.ask(channel_at(server.url), ROUTE, ["a"])
        await is_poisoned.wait()
        seen = [await client.ask(channel_at(server.url), ROUTE, [name]) for name in ("b", "c", "d")]
    for answer, name in zip(seen, ("b", "c", "d"), strict=True):
        assert answer.reports[name].kind is Kind.UNPROVEN or answer.reports[name].word == "processing"
    assert [answer.reports[name].word for answer, name in zip(seen[1:], ("c", "d"), strict=True)] == ["processing"] * 2


async def test_idle_connection_closed_as_we_write_costs_no_failure() -> None:
    async def closes_used_connections(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.connection == 1 and request.number > 1:
            raise Close
        writer.write(response(answer_of(request.ids)))

    async with asked_of(closes_used_connections) as (server, client):
        await client.ask(channel_at(server.url), ROUTE, ["t1"])
        answer = await client.ask(channel_at(server.url), ROUTE, ["t1"])
    assert answer.reports["t1"].word == "processing"
    assert [request.connection for request in server.requests] == [1, 1, 2]


async def test_fresh_connection_that_is_closed_unanswered_is_a_failure() -> None:
    async with asked_of(sends(b"")) as (server, client):
        assert (await failure(client, server)).reason is AskReason.NETWORK
    assert len(server.requests) == 1


async def test_connections_do_not_outlive_their_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "SESSION_LIFETIME_S", 0.0)
    async with asked_of(good) as (server, client):
        for _ in range(3):
            await client.ask(channel_at(server.url), ROUTE, ["t1"])
        assert server.connections == 3
        await server.until_open(1)


async def test_closing_leaves_no_connection_open() -> None:
    async with asked_of(good) as (server, client):
        async with anyio.create_task_group() as asks:
            for number in range(8):
                asks.start_soon(client.ask, channel_at(server.url), ROUTE, [f"t{number}"])
        await client.aclose()
        await server.until_open(0)


async def test_no_more_connections_than_allowed() -> None:
    most = 0

    async def counts(request: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal most
        most = max(most, server.open_connections)
        await asyncio.sleep(0.01)
        await good(request, writer)

    async with asked_of(counts, limits(connections=3)) as (server, client), anyio.create_task_group() as asks:
        for number in range(30):
            asks.start_soon(client.ask, channel_at(server.url), ROUTE, [f"t{number}"])
    assert most <= 3


async def test_secrets_echoed_by_upstream_are_in_no_report() -> None:
    async def echoes(request: Request, writer: asyncio.StreamWriter) -> None:
        said = f"bad {request.headers['authorization']} {request.headers['x-custom-token']}"
        item = {"task_id": "t1", "status": "failed", "progress": TOKEN, "error": said, "result": {"a": said}}
        other = {"task_id": "t2", "status": KEY}
        body = json.dumps({"code": 0, "data": [item, other]}).replace("/", "\\/")
        writer.write(response(body.encode()))

    async with asked_of(echoes) as (server, client):
        answer = await client.ask(channel_at(server.url), Route("m", Secret(KEY), Secret(TOKEN), ""), ["t1", "t2"])
    assert answer.reports["t1"].word == "failed"
    shown = repr(answer).lower()
    assert KEY not in shown
    assert KEY.replace("/", "\\\\/") not in shown
    assert TOKEN not in shown
