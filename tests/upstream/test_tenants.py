"""Client tokens, through database and HTTP: each travels with its own tasks, in the header that it belongs in."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.bounded import within
from tests.upstream.faults_server import FaultServer, Request, answer_of, response
from tests.upstream.rig import MakeRig, Rig

LIMIT_S = 60.0
HEADERS = ("x-custom-token", "x-tenant", "x-own")


async def finishes(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(response(answer_of(request.ids, "completed")))


def sent(server: FaultServer) -> dict[str, dict[str, str]]:
    """By id asked about, the token headers that were sent with it."""
    return {
        name: {header: value for header, value in request.headers.items() if header in HEADERS}
        for request in server.requests
        for name in request.ids
    }


async def tenant(rig: Rig, channel: int, token: str = "", header: str = "", **more: Any) -> int:
    """A task as the fork saves it: the client's token and its header inside the request's own JSON text."""
    inner = {"payload": {"prompt": "a cat"}, "token": token, "headerKey": header}
    return await rig.task(channel, properties=json.dumps({"input": json.dumps(inner)}), **more)


@within(LIMIT_S)
async def test_one_tenants_token_never_travels_with_another_tenants_task(make_rig: MakeRig) -> None:
    rig = await make_rig("fork", batch_size=3)
    async with FaultServer(finishes) as server:
        channel = await rig.channel(server.url)
        tokens = ["tok-a", "tok-b", "", "tok-c"]
        tasks = [await tenant(rig, channel, tokens[number % 4]) for number in range(24)]
        await rig.walk(channel)
        assert [await rig.state(pk) for pk in tasks] == ["SUCCESS"] * 24
        for number in range(24):
            token = tokens[number % 4]
            assert sent(server)[f"job-{number + 1}"] == ({"x-custom-token": token} if token else {})
        for request in server.requests:
            assert len({tokens[(int(name.removeprefix("job-")) - 1) % 4] for name in request.ids}) == 1


@pytest.mark.parametrize(
    ("own", "channels", "header"),
    [
        ("X-Own", "X-Tenant", "x-own"),
        ("", "X-Tenant", "x-tenant"),
        ("", "", "x-custom-token"),
        ("", "no header", "x-custom-token"),
    ],
)
@within(LIMIT_S)
async def test_the_tasks_header_comes_before_the_channels_and_that_before_the_settings(
    own: str, channels: str, header: str, make_rig: MakeRig
) -> None:
    rig = await make_rig("fork")
    async with FaultServer(finishes) as server:
        channel = await rig.channel(server.url, other=channels)
        await tenant(rig, channel, "tok-a", own)
        await rig.walk(channel)
        assert sent(server) == {"job-1": {header: "tok-a"}}


@within(LIMIT_S)
async def test_a_token_that_upstream_refuses_holds_up_nobody_else(make_rig: MakeRig) -> None:
    async def refuses(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.headers.get("x-custom-token", "").startswith("revoked"):
            writer.write(response(b"", "401 Unauthorized"))
        else:
            await finishes(request, writer)

    rig = await make_rig("fork")
    async with FaultServer(refuses) as server:
        channel = await rig.channel(server.url)
        revoked = [await tenant(rig, channel, f"revoked-{number}") for number in range(20)]
        done = [await tenant(rig, channel, "tok-a"), await tenant(rig, channel)]
        await rig.walk(channel)
        assert [await rig.state(pk) for pk in done] == ["SUCCESS"] * 2
        assert {await rig.state(pk) for pk in revoked} == {"IN_PROGRESS"}
        assert rig.lane(channel).asker.breaker.state == "closed"


@within(LIMIT_S)
async def test_a_token_that_reads_like_a_status_word_changes_nothing_of_what_its_owner_gets_back(
    make_rig: MakeRig,
) -> None:
    async def ends(request: Request, writer: asyncio.StreamWriter) -> None:
        word = "completed" if request.headers["x-custom-token"].startswith("comp") else "failed"
        writer.write(response(answer_of(request.ids, word)))

    rig = await make_rig("fork")
    async with FaultServer(ends) as server:
        channel = await rig.channel(server.url)
        failed = [await tenant(rig, channel, token) for token in ("failed", "ai", "e", "a-token-of-some-length")]
        done = [await tenant(rig, channel, token) for token in ("completed", "comp")]
        await rig.walk(channel)
        assert [await rig.state(pk) for pk in failed] == ["FAILURE"] * 4
        assert [await rig.state(pk) for pk in done] == ["SUCCESS"] * 2


PLANTED = [
    "Authorization", "authorization", "AUTHORIZATION", "Proxy-Authorization", "proxy-anything", "Proxy_Authorization",
    "X-Authorization", "Host", "hOsT", "Content-Length", "content_length", "Content-Type", "Content-Encoding",
    "Transfer-Encoding", "Transfer_Encoding", "TE", "Trailer", "Connection", "Keep-Alive", "Upgrade", "Cookie",
    "Cookie2", "Expect", "User-Agent", "Accept", "Accept-Encoding", "X-Api-Key", "x_api_key", "Api-Key", "ApiKey",
    "X-Goog-Api-Key", "X-Forwarded-For", "X-Forwarded-Host", "Forwarded", "X-Real-IP", "X-Original-URL",
    "X-Rewrite-URL", "X-HTTP-Method-Override", "X-Host", "Range", "If-None-Match", "Origin", "Referer", "Via",
    "Sec-Fetch-Site", "CF-Connecting-IP", "X-Amz-Security-Token", "a b", "a:b", "a\r\nHost: evil", "a\u0000",
    "X-T\u00f6ken", "X-Custom-Token:",
]  # fmt: skip


@within(LIMIT_S)
async def test_what_no_gateway_would_send_stays_at_home_and_stops_nobody(make_rig: MakeRig) -> None:
    rig = await make_rig("fork", batch_size=100)
    async with FaultServer(finishes) as server:
        channel = await rig.channel(server.url)
        odd = [await tenant(rig, channel, "planted", name) for name in PLANTED]
        odd += [
            await tenant(rig, channel, token) for token in ("planted\nlines", "planted\u00e9", "a planted", "p\u0000")
        ]
        bare = {"prompt": "a cat", "token": "planted", "headerKey": "X-Own"}
        odd.append(await rig.task(channel, properties=json.dumps({"input": json.dumps(bare)})))
        done = await tenant(rig, channel, "tok-a")
        await rig.walk(channel)
        assert [await rig.state(pk) for pk in (*odd, done)] == ["SUCCESS"] * (len(odd) + 1)
        # They were asked about together, as tasks without a token are.
        assert rig.reasons() == {"ok": 2}
        with_token, without = sorted(server.requests, key=lambda request: "x-custom-token" not in request.headers)
        assert with_token.headers.pop("x-custom-token") == "tok-a"
        for request in (with_token, without):
            request.headers.pop("content-length")
        assert without.headers == with_token.headers
        assert "planted" not in str(without.headers)
        assert not any("planted" in str(event) for event in rig.lines.events)


@within(LIMIT_S)
async def test_the_operators_own_header_may_be_one_that_no_task_may_choose(make_rig: MakeRig) -> None:
    rig = await make_rig("fork")
    async with FaultServer(finishes) as server:
        channel = await rig.channel(server.url, other="X-Api-Key")
        await tenant(rig, channel, "tok-a", "x-api-key")
        await rig.walk(channel)
        assert [request.headers.get("x-api-key") for request in server.requests] == ["tok-a"]
