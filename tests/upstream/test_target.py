"""Which proxy an ask takes: the channel's own, else the environment's as Go programs choose it."""

from __future__ import annotations

import base64

import anyio
import pytest
from faults_server import KEY, ROUTE, FaultServer, channel_at, good, limits, replies

from poller.core.model import Secret
from poller.errors import AskFailed, AskReason
from poller.upstream.client import Client, Limits
from poller.upstream.target import Proxies, target_of

ENVIRONMENT = {"http": Secret("http://plain:1"), "https": Secret("http://secure:2")}


def chosen(url: str, *exempt: str, own: str | None = None) -> str | None:
    proxy = target_of(url, "m", Secret(own) if own else None, Proxies(**ENVIRONMENT, exempt=exempt)).proxy
    return proxy.url.reveal() if proxy else None


def test_environment_has_a_proxy_for_each_scheme() -> None:
    assert chosen("http://up.example") == "http://plain:1"
    assert chosen("HTTPS://up.example") == "http://secure:2"


def test_channels_own_proxy_wins_even_over_an_exemption() -> None:
    assert chosen("http://up.example", "*", own="http://mine:3") == "http://mine:3"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8000", "127.9.9.9", "[::1]:80"])
def test_loopback_is_never_asked_through_the_environments_proxy(host: str) -> None:
    assert chosen(f"http://{host}") is None


@pytest.mark.parametrize(
    ("url", "entry", "is_exempt"),
    [
        ("http://up.example", "*", True),
        ("http://up.example", "up.example", True),
        ("http://UP.example", "up.EXAMPLE", True),
        ("http://a.up.example", "up.example", True),
        ("http://a.up.example", ".up.example", True),
        ("http://a.up.example", "*.up.example", True),
        ("http://badup.example", "up.example", False),
        ("http://up.example.org", "up.example", False),
        ("http://up.example:8080", "up.example:8080", True),
        ("http://up.example", "up.example:80", True),
        ("https://up.example", "up.example:80", False),
        ("http://10.1.2.3", "10.0.0.0/8", True),
        ("http://11.1.2.3", "10.0.0.0/8", False),
        ("http://10.1.2.3:81", "10.1.2.3", True),
        ("http://[fd12::1]", "fd12::/16", True),
        ("http://[fd12::1]", "[fd12::1]", True),
        ("http://up.example", "", False),
        ("http://up.example", "10.0.0.0/8", False),
    ],
)
def test_exemptions_are_read_as_everywhere(url: str, entry: str, is_exempt: bool) -> None:
    assert (chosen(url, entry) is None) is is_exempt


@pytest.mark.parametrize(
    "proxy", ["socks4://h:1", "socks://h:1", "h:1", "ftp://h", "http://", "socks5://", "http://h:x"]
)
def test_proxy_of_another_kind_is_refused_without_showing_it(proxy: str) -> None:
    with pytest.raises(AskFailed) as caught:
        chosen("http://up.example", own=proxy)
    assert caught.value.reason is AskReason.BAD_REQUEST_PARTS
    assert proxy not in str(caught.value)


def test_socks_proxy_is_taken_in_both_spellings_and_has_its_usual_port() -> None:
    for scheme in ("socks5", "socks5h"):
        proxy = target_of("http://up.example", "m", Secret(f"{scheme}://us%40er:pw@h"), Proxies()).proxy
        assert proxy is not None
        assert (proxy.is_socks, proxy.address(), proxy.headers()) == (True, ("h", 1080), {})
        assert (proxy.user, proxy.password) == (Secret("us@er"), Secret("pw"))


@pytest.mark.parametrize("base", ["http://[1:2]", "http://[::1", "http://up:99999", "http://256.1.1.1", "http://up:"])
async def test_address_that_is_none_is_refused(base: str) -> None:
    failed = await ask(base, limits(task_timeout_s=1.0, http_proxy=Secret("http://127.0.0.1:9")))
    assert failed is not None
    assert failed.reason in (AskReason.BAD_REQUEST_PARTS, AskReason.CONNECT)


async def ask(url: str, with_limits: Limits, **more: object) -> AskFailed | None:
    client = Client(channel_at(url), with_limits)
    with anyio.fail_after(30):
        try:
            await client.ask(channel_at(url, **more), ROUTE, ["t1"])
        except AskFailed as failed:
            return failed
        finally:
            await client.aclose()
    return None


async def test_every_ask_through_a_proxy_has_its_password() -> None:
    async with FaultServer(good) as proxy:
        channel = channel_at("http://up.test", proxy=Secret(f"http://us%40er:pw@127.0.0.1:{proxy.port}"))
        client = Client(channel, limits())
        with anyio.fail_after(30):
            for _ in range(3):
                await client.ask(channel, ROUTE, ["t1"])
            await client.aclose()
    assert proxy.connections == 1
    for request in proxy.requests:
        assert request.line == "POST http://up.test/flux/task/list-by-condition HTTP/1.1"
        assert request.headers["host"] == "up.test"
        assert request.headers["proxy-authorization"] == "Basic " + base64.b64encode(b"us@er:pw").decode()
        assert request.headers["authorization"] == f"Bearer {KEY}"


async def test_ask_goes_through_the_environments_proxy() -> None:
    async with FaultServer(good) as proxy:
        assert await ask("http://up.test", limits(http_proxy=Secret(proxy.url))) is None
        assert len(proxy.requests) == 1
        assert (
            await ask("http://nosuch.invalid", limits(http_proxy=Secret(proxy.url), no_proxy=("invalid",))) is not None
        )
        assert len(proxy.requests) == 1


async def test_variables_of_the_process_have_no_say(monkeypatch: pytest.MonkeyPatch) -> None:
    async with FaultServer(good) as server, FaultServer(good) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert await ask(server.url, limits()) is None
        assert proxy.connections == 0


async def test_new_proxy_of_a_channel_is_used_at_once() -> None:
    async with FaultServer(good) as first, FaultServer(good) as second:
        client = Client(channel_at("http://up.test"), limits())
        with anyio.fail_after(30):
            for proxy in (first, first, second):
                await client.ask(channel_at("http://up.test", proxy=Secret(proxy.url)), ROUTE, ["t1"])
            await client.aclose()
    assert (len(first.requests), len(second.requests)) == (2, 1)


async def test_proxy_that_refuses_a_tunnel_is_a_connect_failure_and_never_sees_the_key() -> None:
    async with FaultServer(replies(b"", "407 Proxy Authentication Required")) as proxy:
        failed = await ask("https://up.test", limits(), proxy=Secret(f"http://user:pw@127.0.0.1:{proxy.port}"))
    assert failed is not None
    assert failed.reason is AskReason.CONNECT
    (request,) = proxy.requests
    assert request.line == "CONNECT up.test:443 HTTP/1.1"
    assert request.headers["proxy-authorization"] == "Basic " + base64.b64encode(b"user:pw").decode()
    assert KEY not in str(request)
