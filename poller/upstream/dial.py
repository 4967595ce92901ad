"""Which addresses may be dialled.

Upstreams on loopback and private addresses are normal; link-local addresses and those where clouds serve credentials
are never dialled, whatever name or spelling leads there. The guard sits where a socket is made, so the address that
was checked is the address that is dialled.
"""

from __future__ import annotations

import ipaddress
import socket
from contextvars import ContextVar
from typing import Any, Final

import aiohappyeyeballs
import anyio
import anyio.to_thread
from aiohttp.abc import AbstractResolver, ResolveResult

from poller.errors import AskFailed, AskReason

CONNECT_TIMEOUT_S: Final = 5.0
"""Limit of one name look-up, and of one connect with its TLS handshake."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_FORBIDDEN: Final = tuple(
    ipaddress.ip_network(network)
    for network in (
        "169.254.0.0/16",  # link-local; the metadata service of most clouds
        "fe80::/10",
        "fd00:ec2::/32",  # AWS metadata and pod identity
        "fd20:ce::254/128",  # Google metadata
        "100.100.100.200/32",  # Alibaba metadata
        "168.63.129.16/32",  # Azure platform
        "192.0.0.192/32",  # Oracle metadata
    )
)
_NAT64: Final = tuple(ipaddress.IPv6Network(network) for network in ("64:ff9b::/96", "64:ff9b:1::/48"))
_IPV4_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")
_NEXT_ADDRESS_AFTER_S: Final = 0.25
_LOW_32_BITS: Final = 0xFFFFFFFF


class RefusedAddress(OSError):
    """The address is one that must never be dialled."""


class ProxyRefused(OSError):
    """The proxy is there and does not make the connection, or speaks another language."""


class Dial:
    """What the ask that runs in this context did about connections."""

    __slots__ = ("is_fresh",)

    def __init__(self) -> None:
        self.is_fresh = False
        """A connection was opened for it; otherwise it was sent over a used one."""


current_dial: ContextVar[Dial | None] = ContextVar("current_dial", default=None)


def is_forbidden(address: str) -> bool:
    """Whether *address*, an IP address in its canonical spelling, zone allowed, must never be dialled.

    IPv4 addresses inside IPv6 ones (mapped, compatible, NAT64, 6to4, Teredo) count as what they lead to.

    >>> [is_forbidden(ip) for ip in ("169.254.169.254", "::ffff:169.254.1.1", "64:ff9b::a9fe:a9fe", "127.0.0.1")]
    [True, True, True, False]
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    return any(form in network for form in _forms(ip) for network in _FORBIDDEN if form.version == network.version)


def _forms(ip: Address) -> list[Address]:
    forms: list[Address] = [ip]
    if isinstance(ip, ipaddress.IPv6Address):
        forms += [form for form in (ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())) if form is not None]
        if ip in _IPV4_COMPATIBLE or any(ip in network for network in _NAT64):
            forms.append(ipaddress.IPv4Address(int(ip) & _LOW_32_BITS))
    return forms


def check_host(host: str) -> None:
    """Refuse *host* when it is a forbidden IP address in any spelling that a resolver would take, such as 0xa9fea9fe.

    Names pass: what they resolve to is checked when it is dialled. A proxy resolves names where nobody here can look,
    which is why this check comes first on every path. Raises ``AskFailed``.
    """
    bare = host.rstrip(".")
    try:
        address = str(ipaddress.ip_address(bare))
    except ValueError:
        try:
            address = socket.inet_ntoa(socket.inet_aton(bare))
        except (OSError, UnicodeError):
            return
    if is_forbidden(address):
        raise AskFailed(AskReason.REFUSED_ADDRESS, "link-local and metadata addresses are not asked")


def guarded_socket(info: tuple[Any, ...]) -> socket.socket:
    """A socket for the ``getaddrinfo`` tuple *info*, unless its address is forbidden: ``RefusedAddress``."""
    family, kind, proto, _, address = info
    if is_forbidden(address[0]):
        raise RefusedAddress("address refused")
    dial = current_dial.get()
    if dial is not None:
        dial.is_fresh = True
    return socket.socket(family, kind, proto)


class GuardedResolver(AbstractResolver):
    """Names to addresses, in a few threads of its own so that slow name servers hold up nobody else.

    Forbidden addresses are left out; a name that has no others is a ``RefusedAddress``.
    """

    def __init__(self) -> None:
        self._threads = anyio.CapacityLimiter(2)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Addresses of *host*, within CONNECT_TIMEOUT_S, else an ``OSError``."""
        try:
            with anyio.fail_after(CONNECT_TIMEOUT_S):
                found = await anyio.to_thread.run_sync(
                    _look_up, host, port, family, abandon_on_cancel=True, limiter=self._threads
                )
        except TimeoutError:
            raise OSError("name look-up took too long") from None
        allowed = [entry for entry in found if not is_forbidden(entry["host"])]
        if found and not allowed:
            raise RefusedAddress("address refused")
        return allowed

    async def close(self) -> None:
        """Nothing is held."""


async def dial(host: str, port: int, resolver: GuardedResolver) -> socket.socket:
    """A socket connected to *host*, a name or an address, unless forbidden; an ``OSError`` when none of it answers."""
    try:
        addresses = [str(ipaddress.ip_address(host))]
    except ValueError:
        addresses = [found["host"] for found in await resolver.resolve(host, port, socket.AF_UNSPEC)]
    infos: list[Any] = [
        (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port, 0, 0))
        if ":" in address
        else (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))
        for address in addresses
    ]
    return await aiohappyeyeballs.start_connection(
        infos, happy_eyeballs_delay=_NEXT_ADDRESS_AFTER_S, socket_factory=guarded_socket
    )


def _look_up(host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
    numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return [
        ResolveResult(hostname=host, host=str(address[0]), port=port, family=found, proto=proto, flags=numeric)
        for found, _, proto, _, address in socket.getaddrinfo(
            host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
        )
    ]
