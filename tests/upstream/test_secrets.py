"""Canary secrets: whatever goes wrong, no text of ours or of the HTTP libraries' loggers has them."""

from __future__ import annotations

import asyncio
import logging
import traceback

import anyio
import pytest
from faults_server import (
    KEY,
    TOKEN,
    Behaviour,
    FaultServer,
    Request,
    channel_at,
    good,
    hangs,
    limits,
    replies,
    resets_in_the_body,
    response,
    sends,
    truncates,
)

from poller.core.model import Route, Secret
from poller.errors import AskFailed
from poller.upstream.client import Client


async def echoes_garbage(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(response(f'{{"code":{request.headers["authorization"]}'.encode()))


async def echoes_in_its_status_line(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(f"HTTP/1.1 {request.headers['authorization']}\r\n\r\n".encode())


async def echoes_in_its_code(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(response(f'{{"code":"{request.headers["authorization"]}","data":[]}}'.encode()))


async def redirects_with_it(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(response(b"", "302 Found", [f"Location: http://up.test/{request.headers['authorization'][7:]}"]))


FAULTS: list[Behaviour] = [
    good,
    hangs,
    truncates,
    resets_in_the_body,
    sends(b"garbage"),
    sends(b""),
    replies(b"<html>", "502 Bad Gateway"),
    echoes_garbage,
    echoes_in_its_status_line,
    echoes_in_its_code,
    redirects_with_it,
]
BAD_KEYS = [KEY + "\n", KEY + "\r\nX: y", KEY + "ключ", f" {KEY}", KEY + "\0"]


def everything_about(error: BaseException) -> str:
    parts = [str(error), repr(error), repr(error.args), repr(vars(error)), *traceback.format_exception(error)]
    others = [other for other in (error.__context__, error.__cause__) if other is not None]
    return "\n".join([*parts, *map(everything_about, others)])


async def shown_by(url: str, key: str, token: str) -> str:
    client = Client(channel_at(url), limits(task_timeout_s=0.3))
    route = Route("m/submit", Secret(key), Secret(token), "X-T")
    try:
        await client.ask(channel_at(url), route, ["t1"])
    except AskFailed as failed:
        return everything_about(failed) + repr(client) + repr(route)
    finally:
        await client.aclose()
    return repr(client) + repr(route)


@pytest.mark.parametrize("behaviour", FAULTS)
async def test_no_fault_of_upstream_shows_a_secret(behaviour: Behaviour, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), anyio.fail_after(30):
        async with FaultServer(behaviour) as server:
            shown = await shown_by(server.url, KEY, TOKEN)
    for secret in (KEY, TOKEN):
        assert secret not in shown
        assert secret not in caplog.text


@pytest.mark.parametrize("bad", BAD_KEYS)
async def test_secret_that_no_header_can_hold_is_not_shown(bad: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), anyio.fail_after(30):
        async with FaultServer(good) as server:
            shown = await shown_by(server.url, bad, TOKEN) + await shown_by(server.url, KEY, bad)
            assert server.requests == []
    assert KEY not in shown + caplog.text


async def test_password_of_a_proxy_is_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    proxy = Secret("http://user:pw-canary-1234@127.0.0.1:9")
    channel = channel_at("http://up.test", proxy=proxy)
    client = Client(channel, limits())
    with caplog.at_level(logging.DEBUG), anyio.fail_after(30):
        with pytest.raises(AskFailed) as caught:
            await client.ask(channel, Route("m", Secret(KEY), None, ""), ["t1"])
        await client.aclose()
    assert "pw-canary" not in everything_about(caught.value) + caplog.text
