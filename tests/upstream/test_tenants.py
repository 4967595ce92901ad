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


@pytest.mark.parametrize(
    ("token", "header"), [("two\nlines", ""), ("caf\u00e9", ""), ("tok", "Authorization"), ("tok", "a b")]
)
@within(LIMIT_S)
async def test_what_no_header_takes_is_never_sent_and_stops_nobody(token: str, header: str, make_rig: MakeRig) -> None:
    rig = await make_rig("fork")
    async with FaultServer(finishes) as server:
        channel = await rig.channel(server.url)
        odd = [await tenant(rig, channel, f"{token}{number}", header) for number in range(8)]
        done = await tenant(rig, channel, "tok-a")
        before = await rig.gateway.rows("SELECT xmin::text, id FROM tasks WHERE id = ANY($1)", odd)
        await rig.walk(channel)
        assert await rig.state(done) == "SUCCESS"
        assert await rig.gateway.rows("SELECT xmin::text, id FROM tasks WHERE id = ANY($1)", odd) == before
        assert list(sent(server)) == [f"job-{len(odd) + 1}"]
        assert rig.reasons() == {"bad_request_parts": len(odd), "ok": 1}
        assert not any(token in str(event) for event in rig.lines.events if token != "tok")
