"""Who may act through the side port, and on what.

Reading is free; acting needs the admin token or, where none is set, loopback.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import AsyncIterable, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from poller.core.model import Secret

_EXPECTED = "expected ?channel=N for one channel, or no parameter for all of them, and no body"
_LONGEST_ID = 18
_FORWARDED = ("x-forwarded-for", "forwarded", "x-real-ip", "via")


class Refusal(NamedTuple):
    """HTTP status and one line that says what is missing."""

    status: int
    reason: str


class Guard:
    """Decides on one request from its peer address and its headers (a mapping that ignores case)."""

    def __init__(self, token: Secret | None) -> None:
        self._token = token

    def refusal(self, peer: str, headers: Mapping[str, str]) -> Refusal | None:
        """Why this request may not act; None when it may."""
        if _is_foreign_page(headers):
            return Refusal(403, "another site's page asked a browser for this")
        if self._token is not None:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            is_right = hmac.compare_digest(given.strip().encode(), self._token.reveal().encode())
            if scheme.lower() == "bearer" and is_right:
                return None
            return Refusal(401, "expected header Authorization: Bearer with the admin token")
        if not _is_loopback(peer):
            return Refusal(403, "CUSTOM_PASS_ADMIN_TOKEN is not set, so acting is allowed from loopback only")
        # Whoever stands behind a proxy on this machine comes from loopback too.
        if any(name in headers for name in _FORWARDED):
            return Refusal(403, "came through a proxy; CUSTOM_PASS_ADMIN_TOKEN is needed for that")
        if not _names_loopback(headers.get("host", "")):
            return Refusal(403, "expected a loopback address in the Host header")
        return None


async def subject(query: Sequence[tuple[str, str]], body: AsyncIterable[bytes]) -> tuple[int | None, Refusal | None]:
    """Which channel a request is about, None: all of them; and why it is refused instead.

    Whatever is not understood is refused: a slip in the name of one channel must not stop them all.
    """
    if len(query) > 1 or any(name != "channel" for name, _ in query):
        return None, Refusal(400, _EXPECTED)
    async for part in body:
        if part:
            return None, Refusal(400, _EXPECTED)
    for _, value in query:
        if not (value.isascii() and value.isdecimal() and len(value) <= _LONGEST_ID):
            return None, Refusal(400, f"channel: not the id of one; {_EXPECTED}")
        return int(value), None
    return None, None


def _is_loopback(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return bool((mapped or found).is_loopback)


def _names_loopback(host: str) -> bool:
    """Against DNS rebinding: a page of a name that was pointed at 127.0.0.1 sends that name."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name == "localhost" or _is_loopback(name)


def _is_foreign_page(headers: Mapping[str, str]) -> bool:
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
    try:
        return urlsplit(origin).netloc != headers.get("host", "")
    except ValueError:
        return True
