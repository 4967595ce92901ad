"""Where a request goes: its URL, checked, and the proxy on the way."""

from __future__ import annotations

import ipaddress
from base64 import b64encode
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import SplitResult, urlsplit

import httpx

from poller.core.channels import PROXY_SCHEMES
from poller.core.model import Secret
from poller.errors import AskFailed, AskReason
from poller.upstream.dial import Address, check_host
from poller.upstream.wire import ask_url

_SOCKS_PORT: Final = 1080
"""Where the address of a SOCKS5 proxy names none."""


class Proxies(NamedTuple):
    """The environment's proxies."""

    http: Secret | None = None
    https: Secret | None = None
    exempt: tuple[str, ...] = ()
    """NO_PROXY: ``*``, hosts, domains with what is below them, addresses and networks, each with an optional port."""


class Proxy(NamedTuple):
    """An HTTP proxy, which forwards http and tunnels https, or a SOCKS5 proxy, which just connects."""

    url: Secret
    """Without user and password."""
    user: Secret | None
    password: Secret | None

    @property
    def is_socks(self) -> bool:
        """Whether it speaks SOCKS5."""
        return self.url.reveal().startswith("socks5")

    def address(self) -> tuple[str, int]:
        """Host and port of a SOCKS5 proxy."""
        url = httpx.URL(self.url.reveal())
        return url.host, url.port or _SOCKS_PORT

    def headers(self) -> dict[str, str]:
        """What an HTTP proxy itself is told: in the request when it forwards, in CONNECT when it tunnels."""
        if self.is_socks or self.user is None or self.password is None:
            return {}
        pair = f"{self.user.reveal()}:{self.password.reveal()}"
        return {"Proxy-Authorization": "Basic " + b64encode(pair.encode()).decode()}


class Target(NamedTuple):
    """A URL that may be asked, and the proxy to ask it through."""

    url: httpx.URL
    proxy: Proxy | None


@lru_cache(maxsize=4096)  # a lane asks for few models, again and again, and parsing URLs is a third of a request's cost
def target_of(base_url: str, model: str, channel_proxy: Secret | None, proxies: Proxies) -> Target:
    """Where tasks of *model* are asked about. The channel's own proxy wins over the environment's.

    Raises ``AskFailed``: BAD_REQUEST_PARTS for parts that make no plain URL, or a proxy that is none of PROXY_SCHEMES,
    REFUSED_ADDRESS for a forbidden address in any spelling.
    """
    text = ask_url(base_url, model)
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise AskFailed(AskReason.BAD_REQUEST_PARTS, "base_url has no usable host or port") from None
    check_host(host)
    url = _parsed(text)
    if url is None:
        raise AskFailed(AskReason.BAD_REQUEST_PARTS, "base_url is not a usable address")
    return Target(url, _choose_proxy(parts, channel_proxy, proxies))


def _choose_proxy(target: SplitResult, channel_proxy: Secret | None, proxies: Proxies) -> Proxy | None:
    address = channel_proxy or None
    if address is None and not _is_exempt(target, proxies.exempt):
        address = (proxies.https if target.scheme.lower() == "https" else proxies.http) or None
    return _read_proxy(address.reveal()) if address else None


def _read_proxy(address: str) -> Proxy:
    parts = _parsed(address)
    if parts is None or parts.scheme not in PROXY_SCHEMES or not parts.host:
        raise AskFailed(AskReason.BAD_REQUEST_PARTS, "proxy is no http, https or socks5 address")
    user, password = parts.username, parts.password
    has_credentials = bool(user or password)
    if has_credentials and parts.scheme.startswith("socks5") and not (_fits_socks(user) and _fits_socks(password)):
        detail = "user and password of a socks5 proxy are both needed, 1 to 255 ASCII characters each"
        raise AskFailed(AskReason.BAD_REQUEST_PARTS, detail)
    return Proxy(
        Secret(str(parts.copy_with(username=None, password=None))),
        Secret(user) if has_credentials else None,
        Secret(password) if has_credentials else None,
    )


def _fits_socks(text: str) -> bool:
    return text.isascii() and 0 < len(text) < 256


def _parsed(address: str) -> httpx.URL | None:
    try:
        return httpx.URL(address)
    except (httpx.InvalidURL, ValueError):
        return None


def _is_exempt(target: SplitResult, exempt: tuple[str, ...]) -> bool:
    host = (target.hostname or "").rstrip(".")
    port = target.port or (443 if target.scheme.lower() == "https" else 80)
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        ip = None
    # As in Go programs, and so in the gateway: what is on this machine is never asked through the environment's proxy.
    if host == "localhost" or (ip is not None and ip.is_loopback):
        return True
    return any(_covers(entry.strip().lower(), host, port, ip) for entry in exempt)


def _covers(entry: str, host: str, port: int, ip: Address | None) -> bool:
    if entry in ("", "*"):
        return entry == "*"
    try:
        network = ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        pass
    else:
        return ip is not None and ip.version == network.version and ip in network
    name, _, wanted = entry.rpartition(":")
    if name and wanted.isdecimal():
        return int(wanted) == port and _covers(name, host, port, ip)
    domain = entry.removeprefix("*").removeprefix(".")
    return host == domain or host.endswith(f".{domain}")
