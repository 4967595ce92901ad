"""What went wrong with an exchange, in our own words.

Texts of the HTTP layer never leave this module, the host of a redirect excepted: some hold the key, the URL or what
upstream sent. Callers raise what
they get here outside their ``except`` block, so that the original does not travel along as its context.
"""

from __future__ import annotations

import math
import re
import ssl
import time
from collections.abc import Iterable
from email.utils import parsedate_to_datetime
from typing import Final

import aiohttp
import httpx

from poller.core.model import Secret
from poller.errors import AskFailed, AskReason
from poller.upstream.dial import ProxyRefused, RefusedAddress

LONGEST_RETRY_AFTER_S: Final = 300.0
"""An upstream that wishes for more is asked again after this many seconds all the same."""

HTTP_ERRORS: Final = (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, aiohttp.ClientError, OSError, ValueError)
"""What an exchange may raise besides AskFailed; TLS failures and time-outs are OSErrors, UnicodeError a ValueError."""

# First match wins: a class stands before those that it inherits from.
_REASONS: Final[tuple[tuple[type[BaseException], AskReason, str], ...]] = (
    (RefusedAddress, AskReason.REFUSED_ADDRESS, "link-local and metadata addresses are not asked"),
    (ssl.SSLCertVerificationError, AskReason.TLS, "certificate not trusted"),
    (ssl.SSLError, AskReason.TLS, "TLS failed"),
    (aiohttp.ClientSSLError, AskReason.TLS, "TLS failed"),
    (aiohttp.ConnectionTimeoutError, AskReason.TIMEOUT, "connect timeout"),
    (aiohttp.ServerTimeoutError, AskReason.TIMEOUT, "read timeout"),
    (ProxyRefused, AskReason.CONNECT, "proxy refused"),
    (aiohttp.ClientHttpProxyError, AskReason.CONNECT, "proxy refused"),
    (aiohttp.ClientProxyConnectionError, AskReason.CONNECT, "proxy cannot be reached"),
    (aiohttp.ClientConnectorDNSError, AskReason.CONNECT, "name cannot be resolved"),
    (aiohttp.ClientConnectorError, AskReason.CONNECT, "cannot connect"),
    (aiohttp.InvalidURL, AskReason.BAD_REQUEST_PARTS, "not a usable address"),
    (aiohttp.ServerDisconnectedError, AskReason.NETWORK, "connection closed without an answer"),
    (aiohttp.ClientPayloadError, AskReason.NETWORK, "answer cut short"),
    (aiohttp.ClientResponseError, AskReason.NETWORK, "not an HTTP answer"),
    (aiohttp.ClientError, AskReason.NETWORK, "connection failed"),
    (httpx.TimeoutException, AskReason.TIMEOUT, "timeout"),
    (httpx.ConnectError, AskReason.CONNECT, "cannot connect"),
    (httpx.UnsupportedProtocol, AskReason.BAD_REQUEST_PARTS, "not a usable address"),
    (httpx.InvalidURL, AskReason.BAD_REQUEST_PARTS, "not a usable address"),
    (httpx.HTTPError, AskReason.NETWORK, "connection failed"),
    (httpx.StreamError, AskReason.NETWORK, "connection failed"),
    (TimeoutError, AskReason.TIMEOUT, "timeout"),
    (OSError, AskReason.NETWORK, "connection failed"),
    (ValueError, AskReason.BAD_REQUEST_PARTS, "the request cannot be made"),
)
_HOST: Final = re.compile(r"[a-z0-9.:-]{1,253}")
_NOT_IN_HOSTS: Final = re.compile(r"[^a-z0-9.:-]+")
_BATCH_FAULTS: Final = frozenset({400, 413, 414, 422})


def failure_of(error: BaseException) -> AskFailed:
    """The failure that *error*, one of HTTP_ERRORS, stands for."""
    causes = _chain(error)
    for kind, reason, detail in _REASONS:
        # httpx-aiohttp calls every lost connection a connect time-out: what it was raised from knows better.
        if any(isinstance(cause, kind) for cause in causes):
            return AskFailed(reason, detail)
    return AskFailed(AskReason.NETWORK, "connection failed")


def is_connection_lost(error: BaseException) -> bool:
    """Whether the other side closed the connection before it sent a byte of an answer."""
    lost = (aiohttp.ServerDisconnectedError, ConnectionError)
    is_cut_answer = any(isinstance(cause, aiohttp.ClientPayloadError) for cause in _chain(error))
    return not is_cut_answer and any(isinstance(cause, lost) for cause in _chain(error))


def _chain(error: BaseException) -> list[BaseException]:
    causes = [error]
    while (cause := causes[-1].__cause__) is not None and cause not in causes:
        causes.append(cause)
    return causes


def failure_of_status(status: int, retry_after: str | None, leads_to: str = "") -> AskFailed:
    """The failure that an HTTP *status* other than 200 stands for.

    *retry_after* is the header as sent; *leads_to* the host of a redirect, fit to be shown.
    """
    if status in (401, 403):
        reason = AskReason.AUTH
    elif status == 429:
        reason = AskReason.RATE_LIMITED
    elif 300 <= status < 400:
        reason = AskReason.REDIRECT
    elif 400 <= status < 500:
        reason = AskReason.CLIENT_ERROR
    elif 500 <= status < 600:
        reason = AskReason.SERVER_ERROR
    else:
        reason = AskReason.HTTP_STATUS
    return AskFailed(
        reason,
        f"HTTP {status} to {leads_to}" if leads_to else f"HTTP {status}",
        retry_after_s=retry_after_s(retry_after, now_s=time.time()),
        is_batch_fault=status in _BATCH_FAULTS,
        http_status=status,
    )


def redirect_host(location: str | None, secrets: Iterable[Secret | None]) -> str:
    """The host in a Location header, and nothing else of it: paths and queries carry what nobody should read in a log.

    Empty where there is none, where it is no plain host, and where it has a piece of one of *secrets* in it.

    >>> redirect_host("https://user:pw@elsewhere.example:8443/path?key=1", [])
    'elsewhere.example'
    >>> redirect_host("/login", []), redirect_host("http://sk-77.example", [Secret("SK-77/x")])
    ('', '')
    """
    try:
        host = httpx.URL(location or "").raw_host.decode().lower()
    except (httpx.InvalidURL, ValueError):
        return ""
    pieces = (max(_NOT_IN_HOSTS.split(secret.reveal().lower()), key=len) for secret in secrets if secret)
    is_fit = _HOST.fullmatch(host) is not None and not any(piece and piece in host for piece in pieces)
    return host if is_fit else ""


def retry_after_s(text: str | None, *, now_s: float) -> float | None:
    """Seconds that a Retry-After header asks to wait, capped; None when it is missing, past, negative or garbage.

    >>> [retry_after_s(said, now_s=0.0) for said in ("7", "1000000000", "-1", "soon", None)]
    [7.0, 300.0, None, None, None]
    >>> retry_after_s("Thu, 01 Jan 1970 00:00:30 GMT", now_s=10.0)
    20.0
    """
    if text is None:
        return None
    try:
        wait_s = float(text)
    except ValueError:
        try:
            wait_s = parsedate_to_datetime(text).timestamp() - now_s
        except (ValueError, OverflowError, IndexError, TypeError):
            return None
    if math.isnan(wait_s) or wait_s < 0:
        return None
    return min(wait_s, LONGEST_RETRY_AFTER_S)
