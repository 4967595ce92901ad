"""Which addresses are dialled: link-local and metadata never, in no spelling and behind no name."""

from __future__ import annotations

import socket
from typing import Any

import anyio
import pytest
from faults_server import ROUTE, FaultServer, channel_at, good, limits

from poller.core.model import Secret
from poller.errors import AskFailed, AskReason
from poller.upstream import dial
from poller.upstream.client import Client
from poller.upstream.dial import is_forbidden

FORBIDDEN = [
    "169.254.169.254",
    "169.254.0.1",
    "100.100.100.200",
    "168.63.129.16",
    "fe80::1",
    "fe80::1%lo",
    "febf::1",
    "fd00:ec2::254",
    "fd20:ce::254",
    "::ffff:169.254.169.254",
    "::ffff:a9fe:a9fe",
    "::169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "2001:0:a9fe:a9fe::1",
    "2001:0:4136:e378:8000:63bf:5601:5601",
]
ALLOWED = [
    "127.0.0.1",
    "::1",
    "10.1.2.3",
    "192.168.0.1",
    "172.16.0.1",
    "fd12::1",
    "8.8.8.8",
    "2606:4700::1",
    "100.64.0.1",
]
SPELLINGS = [
    "169.254.169.254",
    "169.254.169.254.",
    "2852039166",
    "0xa9fea9fe",
    "0xA9.0xFE.0xa9.0xfe",
    "0251.0376.0251.0376",
    "169.254.43518",
    "169.16689662",
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "[64:ff9b::a9fe:a9fe]",
    "[2002:a9fe:a9fe::]",
    "[fe80::1]",
    "[fd00:ec2::254]",
    "0x64.0x64.0x64.0xc8",
]


@pytest.mark.parametrize("address", FORBIDDEN)
def test_forbidden_address_is_forbidden(address: str) -> None:
    assert is_forbidden(address)


@pytest.mark.parametrize("address", ALLOWED)
def test_loopback_private_and_public_addresses_are_allowed(address: str) -> None:
    assert not is_forbidden(address)


async def ask(url: str, **more: Any) -> AskReason | None:
    client = Client(channel_at(url), limits(task_timeout_s=5.0))
    with anyio.fail_after(30):
        try:
            await client.ask(channel_at(url, **more), ROUTE, ["t1"])
        except AskFailed as failed:
            return failed.reason
        finally:
            await client.aclose()
    return None


@pytest.mark.parametrize("host", SPELLINGS)
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_no_spelling_of_a_metadata_address_is_asked(host: str, scheme: str) -> None:
    assert await ask(f"{scheme}://{host}:1/x") is AskReason.REFUSED_ADDRESS


@pytest.mark.parametrize("host", SPELLINGS)
async def test_no_spelling_of_it_is_asked_through_a_proxy(host: str) -> None:
    async with FaultServer(good) as proxy:
        assert await ask(f"http://{host}/x", proxy=Secret(proxy.url)) is AskReason.REFUSED_ADDRESS
        assert proxy.connections == 0


def resolves_to(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> None:
    """Names resolve to each of *answers* in turn, then to the last for ever."""
    left = list(answers)
    real = socket.getaddrinfo

    def look_up(host: Any, port: Any, *args: Any, **more: Any) -> Any:
        if host != "up.test":
            return real(host, port, *args, **more)
        addresses = left.pop(0) if len(left) > 1 else left[0]
        return [
            (socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port))
            for ip in addresses
        ]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


async def test_name_that_leads_to_a_metadata_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    resolves_to(monkeypatch, ["169.254.169.254", "fe80::1"])
    assert await ask("http://up.test:80") is AskReason.REFUSED_ADDRESS


async def test_good_address_of_a_name_is_asked_though_another_is_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    resolves_to(monkeypatch, ["169.254.169.254", "127.0.0.1"])
    async with FaultServer(good) as server:
        assert await ask(f"http://up.test:{server.port}") is None


async def test_name_that_changes_its_mind_cannot_slip_past_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    resolves_to(monkeypatch, ["127.0.0.1"], ["169.254.169.254"])
    async with FaultServer(good) as server:
        url = f"http://up.test:{server.port}"
        assert await ask(url) is None
        assert await ask(url) is AskReason.REFUSED_ADDRESS


async def test_socket_for_a_forbidden_address_is_never_made() -> None:
    with pytest.raises(dial.RefusedAddress):
        dial.guarded_socket((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 80)))


async def test_slow_name_servers_are_given_up_within_the_connect_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    is_over = threading.Event()
    monkeypatch.setattr(dial, "CONNECT_TIMEOUT_S", 0.1)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **more: is_over.wait(20) and [])
    try:
        assert await ask("http://slow.test") is AskReason.CONNECT
    finally:
        is_over.set()
