"""SOCKS5 proxies: asked through like any other way, guarded like any other, and never evidence about a task."""

from __future__ import annotations

import asyncio
import logging
import random
import shutil
import socket
import traceback

import anyio
import pytest
import uvloop

from poller.core import breaker
from poller.core.model import Secret
from poller.errors import AskFailed, AskReason
from poller.upstream import client as client_module
from poller.upstream.client import Client, Limits
from tests.upstream.conftest import Certificate
from tests.upstream.faults_server import (
    KEY,
    ROUTE,
    Close,
    FaultServer,
    Request,
    answer_of,
    channel_at,
    good,
    limits,
    response,
)
from tests.upstream.rig import MakeRig
from tests.upstream.socks_server import NOT_ALLOWED, REFUSED, UNREACHABLE, SocksServer

TLS = pytest.mark.skipif(shutil.which("openssl") is None, reason="the openssl command makes the certificates")
LOGIN = ("us@er", "pw-canary-1234")
WRITTEN = "us%40er:pw-canary-1234"
GARBAGE = {
    "http": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "nothing chosen": b"\x05\xff",
    "a method not offered": b"\x05\x01",
    "socks4": b"\x00\x5a\x00\x00\x00\x00\x00\x00",
    "half a word": b"\x05",
    "a name that is no text": b"\x05\x00" + b"\x05\x00\x00\x03\x04\xff\xfe\xff\xfe\x00\x50",
    "an address of no kind": b"\x05\x00" + b"\x05\x00\x00\x09" + b"\x00" * 8,
    "an unknown code": b"\x05\x00" + b"\x05\x99\x00\x01" + b"\x00" * 6,
}


async def ask(url: str, proxy: str | None, with_limits: Limits | None = None) -> AskFailed | None:
    channel = channel_at(url, proxy=Secret(proxy) if proxy else None)
    client = Client(channel, with_limits or limits(task_timeout_s=5.0))
    with anyio.fail_after(30):
        try:
            await client.ask(channel, ROUTE, ["t1"])
        except AskFailed as failed:
            return failed
        finally:
            await client.aclose()
    return None


def everything_about(error: AskFailed) -> str:
    return "\n".join([str(error), repr(vars(error)), *traceback.format_exception(error)])


# -- the way through it ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
@pytest.mark.parametrize("login", [None, LOGIN], ids=["open", "with a password"])
async def test_asks_go_over_one_connection_through_the_proxy_which_resolves_the_name(
    scheme: str, login: tuple[str, str] | None
) -> None:
    async with FaultServer(good) as server, SocksServer(login=login) as proxy:
        address = Secret(proxy.url(WRITTEN if login else "", scheme))
        channel = channel_at(f"http://up.test:{server.port}", proxy=address)
        client = Client(channel, limits())
        with anyio.fail_after(30):
            for _ in range(3):
                await client.ask(channel, ROUTE, ["t1"])
            await client.aclose()
            await proxy.until_open(0)
        assert proxy.asked == [("up.test", server.port)]
        assert proxy.logins == ([login] if login else [])
        assert proxy.connections == server.connections == 1
    for request in server.requests:
        assert request.line == "POST /flux/task/list-by-condition HTTP/1.1"
        assert request.headers["host"] == f"up.test:{server.port}"
        assert "proxy-authorization" not in request.headers


async def test_an_address_is_named_to_the_proxy_as_an_address() -> None:
    async with FaultServer(good) as server, SocksServer() as proxy:
        assert await ask(server.url, proxy.url()) is None
        assert await ask(f"http://[fd12::1]:{server.port}", proxy.url()) is None
        assert proxy.asked == [("127.0.0.1", server.port), ("fd12::1", server.port)]


async def test_proxies_of_the_environment_may_be_of_this_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    async with FaultServer(good) as server, SocksServer() as proxy, SocksServer() as other:
        chosen = limits(http_proxy=Secret(proxy.url()), https_proxy=Secret(other.url()), no_proxy=("up.here",))
        assert await ask(f"http://up.test:{server.port}", None, chosen) is None
        assert await ask("http://up.here:1", None, chosen) is not None
        assert await ask(f"http://up.test:{server.port}", other.url(), chosen) is None
        assert len(proxy.asked) == len(other.asked) == 1


@TLS
async def test_tls_goes_through_it_checked_and_closed_to_it(certificate: Certificate) -> None:
    context, pem = certificate("DNS:up.test")
    async with FaultServer(good, context) as server, SocksServer(login=LOGIN) as proxy:
        url = f"https://up.test:{server.port}"
        assert await ask(url, proxy.url(WRITTEN), limits(ca_file=pem)) is None
        for untrusted in (
            await ask(url, proxy.url(WRITTEN)),
            await ask(url.replace("up.", "other."), proxy.url(WRITTEN)),
        ):
            assert untrusted is not None
            assert (untrusted.reason, untrusted.detail) == (AskReason.TLS, "certificate not trusted")
        (request,) = server.requests
        assert request.headers["authorization"] == f"Bearer {KEY}"
        assert proxy.seen
        assert KEY.encode() not in proxy.seen


async def test_a_connection_closed_while_idle_costs_neither_the_ask_nor_a_retry() -> None:
    async def forgets(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.number == 2:
            raise Close
        await good(request, writer)

    async with FaultServer(forgets) as server, SocksServer() as proxy:
        channel = channel_at(f"http://up.test:{server.port}", proxy=Secret(proxy.url()))
        client = Client(channel, limits())
        with anyio.fail_after(30):
            for _ in range(2):
                await client.ask(channel, ROUTE, ["t1"])
            await client.aclose()
        assert [request.connection for request in server.requests] == [1, 1, 2]


async def test_no_more_connections_are_open_than_allowed() -> None:
    async def takes_its_time(request: Request, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.02)
        await good(request, writer)

    async with FaultServer(takes_its_time) as server, SocksServer() as proxy:
        channel = channel_at(f"http://up.test:{server.port}", proxy=Secret(proxy.url()))
        client = Client(channel, limits(connections=3))
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                for _ in range(12):
                    group.start_soon(client.ask, channel, ROUTE, ["t1"])
            await client.aclose()
        assert proxy.connections <= 3


# -- whom it may not lead to, and what it may not tell ---------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "0xa9fea9fe", "0251.0376.0251.0376", "[::ffff:a9fe:a9fe]", "[64:ff9b::a9fe:a9fe]"]
)
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_no_spelling_of_a_metadata_address_is_asked_for(host: str, scheme: str) -> None:
    async with SocksServer() as proxy:
        failed = await ask(f"{scheme}://{host}/x", proxy.url())
        assert proxy.connections == 0
    assert failed is not None
    assert failed.reason is AskReason.REFUSED_ADDRESS


@pytest.mark.parametrize("host", ["169.254.169.254", "2852039166", "[::ffff:169.254.169.254]", "proxy.test"])
async def test_a_proxy_at_a_metadata_address_is_never_dialled(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def look_up(name: str, *args: object, **more: object) -> object:
        return real("169.254.169.254" if name == "proxy.test" else name, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    failed = await ask("http://up.test", f"socks5://{host}:1080")
    assert failed is not None
    assert failed.reason is AskReason.REFUSED_ADDRESS


@pytest.mark.parametrize("login", ["user:", ":pw", "user", "us%C3%A9r:pw", f"user:{'p' * 256}"])
async def test_a_login_that_this_protocol_has_no_room_for_is_said_and_not_shown(login: str) -> None:
    async with SocksServer() as proxy:
        failed = await ask("http://up.test", proxy.url(login))
        assert proxy.connections == 0
    assert failed is not None
    assert failed.reason is AskReason.BAD_REQUEST_PARTS
    assert "255" in failed.detail
    assert f"{login}@" not in everything_about(failed)


@pytest.mark.parametrize("manner", ["relays", "refuses", "closes", "closes_at_once", "garbage_at_once"])
async def test_password_is_shown_nowhere_whatever_the_proxy_does(manner: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        async with SocksServer(manner, login=("other", "login"), garbage=b"\x05\x07") as proxy:
            failed = await ask("http://up.test:1", proxy.url(WRITTEN))
    assert failed is not None
    assert failed.reason is AskReason.CONNECT
    assert failed.__cause__ is None
    assert failed.__context__ is None
    for secret in ("canary", "us@er", "us%40er"):
        assert secret not in everything_about(failed) + caplog.text


# -- proxies that are dead, closed or mad ----------------------------------------------------------------------------


async def test_a_dead_proxy_is_a_connect_failure() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        failed = await ask("http://up.test", f"socks5://127.0.0.1:{unused.getsockname()[1]}")
    assert failed is not None
    assert (failed.reason, failed.detail) == (AskReason.CONNECT, "proxy cannot be reached")
    nowhere = await ask("http://up.test", "socks5://proxy.invalid:1080")
    assert nowhere is not None
    assert nowhere.reason in (AskReason.CONNECT, AskReason.TIMEOUT)


@pytest.mark.parametrize("code", [REFUSED, UNREACHABLE, NOT_ALLOWED, 1, 8])
async def test_a_proxy_that_refuses_is_a_connect_failure(code: int) -> None:
    async with SocksServer("refuses", code=code) as proxy:
        failed = await ask("http://up.test", proxy.url())
    assert failed is not None
    assert (failed.reason, failed.detail) == (AskReason.CONNECT, "proxy refused")


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
async def test_a_proxy_that_speaks_something_else_is_a_connect_failure(garbage: bytes) -> None:
    async with SocksServer("garbage_at_once", garbage=garbage) as proxy:
        failed = await ask("http://up.test", proxy.url(), limits(task_timeout_s=0.5))
    assert failed is not None
    assert failed.reason in (AskReason.CONNECT, AskReason.TIMEOUT)


@pytest.mark.parametrize("manner", ["hangs_at_once", "hangs"])
async def test_a_proxy_that_hangs_ends_with_the_connect_limit(manner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "CONNECT_TIMEOUT_S", 0.2)
    async with SocksServer(manner) as proxy:
        with anyio.fail_after(4):
            failed = await ask("http://up.test", proxy.url(), limits(task_timeout_s=60.0))
        await proxy.until_open(0)
    assert failed is not None
    assert (failed.reason, failed.detail) == (AskReason.TIMEOUT, "connect timeout")


async def test_asks_cancelled_by_the_hundred_leave_no_connection_behind_and_every_slot_usable() -> None:
    chance = random.Random(12)
    timed_out = cancelled = 0
    reasons: set[AskReason] = set()

    async def is_slow(request: Request, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(chance.choice((0.0, 0.005, 0.02)))
        await good(request, writer)

    async with FaultServer(is_slow) as server, SocksServer() as proxy:
        channel = channel_at(f"http://up.test:{server.port}", proxy=Secret(proxy.url()))
        client = Client(channel, limits(task_timeout_s=0.02, connections=5))

        async def asks() -> None:
            nonlocal timed_out, cancelled
            for _ in range(30):
                proxy.manner = chance.choice(("relays", "relays", "hangs", "hangs_at_once", "resets", "closes_at_once"))
                with anyio.move_on_after(chance.choice((0.001, 0.005, 0.015, 10.0))) as scope:
                    try:
                        await client.ask(channel, ROUTE, ["t1"])
                    except AskFailed as failed:
                        reasons.add(failed.reason)
                        timed_out += 1
                cancelled += scope.cancelled_caught

        with anyio.fail_after(120):
            async with anyio.create_task_group() as group:
                for _ in range(10):
                    group.start_soon(asks)
            assert timed_out + cancelled > 100
            assert reasons == {AskReason.TIMEOUT, AskReason.CONNECT}
            proxy.manner = "relays"
            patient = channel_at(channel.base_url, proxy=channel.proxy, timeout_s=10.0)
            async with anyio.create_task_group() as group:
                for _ in range(10):
                    group.start_soon(client.ask, patient, ROUTE, ["t1"])
            await client.aclose()
            await proxy.until_open(0)
            await server.until_open(0)


@TLS
def test_all_of_this_holds_on_the_daemons_own_loop_as_well(certificate: Certificate) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test_tls_goes_through_it_checked_and_closed_to_it(certificate))
        runner.run(test_a_dead_proxy_is_a_connect_failure())
        runner.run(test_asks_cancelled_by_the_hundred_leave_no_connection_behind_and_every_slot_usable())


@pytest.mark.parametrize(
    ("manner", "reason"),
    [("refuses", "connect"), ("closes", "connect"), ("garbage_at_once", "connect"), ("hangs", "timeout")],
)
async def test_what_a_proxy_does_is_no_evidence_about_a_task_and_takes_no_slot(
    manner: str, reason: str, make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(response(answer_of(request.ids, "failed")))

    monkeypatch.setattr(breaker, "FIRST_DELAY_S", 0.05)
    rig = await make_rig(timeout_s=0.5, batch_size=1)
    async with FaultServer(fails) as server, SocksServer(manner, garbage=b"SSH-2.0-OpenSSH\r\n") as proxy:
        channel = await rig.channel(f"http://up.test:{server.port}", setting=f'{{"proxy": "{proxy.url(WRITTEN)}"}}')
        # Also far past its deadline: a proxy says nothing about any task.
        tasks = [await rig.task(channel), await rig.task(channel, age_s=3 * 3600.0)]
        before = await rig.picture()
        await rig.walk(channel, passes=2)
        assert await rig.picture() == before
        assert await rig.watched() == []
        assert set(rig.reasons()) == {reason}
        assert rig.gate._slots.in_use == 0
        assert server.connections == 0

        proxy.manner = "relays"
        await anyio.sleep(0.1)
        await rig.walk(channel)
        assert {await rig.state(pk) for pk in tasks} == {"FAILURE"}
    assert "canary" not in str(rig.lines.events)
