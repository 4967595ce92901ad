"""A response body read as a stream, never beyond its byte cap, whatever its encoding makes of it.

Many lanes may be sent large bodies at once. So a body may grow large only where there is room for it: one for each
lane, so that no upstream takes all the room, and a few for all lanes together, so that memory stays bounded.
"""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

import anyio
import httpx

from poller.errors import AskFailed, AskReason

LARGE_FROM_BYTES: Final = 512 * 1024
"""A body that grows beyond this waits for room."""
LARGE_AT_ONCE: Final = 4
"""Large bodies in memory, over all lanes."""

_GZIP_WINDOW: Final = zlib.MAX_WBITS | 16
_PLAIN: Final = ("", "identity")
_GZIP: Final = ("gzip", "x-gzip")


class Room:
    """What all lanes of a process share to read answers in."""

    def __init__(self) -> None:
        self.large = anyio.Semaphore(LARGE_AT_ONCE)
        self.reader = anyio.CapacityLimiter(1)
        """Threads that unpack and decode answers: more would only take turns, and each needs memory."""


class Body(NamedTuple):
    """A body as it came over the wire."""

    raw: bytes
    is_packed: bool

    def plain(self, max_bytes: int) -> bytes:
        """The body unpacked, at most *max_bytes* of it. Raises ``AskFailed`` TOO_LARGE or ENCODING."""
        return _gunzip(self.raw, max_bytes) if self.is_packed else self.raw


async def read_capped(response: httpx.Response, max_bytes: int, make_room: Callable[[], Awaitable[None]]) -> Body:
    """The body of an unread *response*, at most *max_bytes* of it; *make_room* is awaited once it gets large.

    Identity was asked for; gzip is taken all the same, because some proxies compress whatever they are told. Raises
    ``AskFailed`` TOO_LARGE or ENCODING, and what the transport raises when the connection fails.
    """
    encoding = response.headers.get("content-encoding", "").strip().lower()
    if encoding not in _PLAIN and encoding not in _GZIP:
        raise AskFailed(AskReason.ENCODING, "the answer is encoded, though identity was asked for")
    announced = response.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > max_bytes:
        raise _too_large(max_bytes)
    parts: list[bytes] = []
    received = 0
    has_room = False
    async for part in response.aiter_raw():
        received += len(part)
        if received > max_bytes:
            raise _too_large(max_bytes)
        parts.append(part)
        if received > LARGE_FROM_BYTES and not has_room:
            await make_room()
            has_room = True
    return Body(parts[0] if len(parts) == 1 else b"".join(parts), encoding in _GZIP)


def _gunzip(raw: bytes, max_bytes: int) -> bytes:
    stream = zlib.decompressobj(_GZIP_WINDOW)
    try:
        plain = stream.decompress(raw, max_bytes + 1)
    except zlib.error:
        raise AskFailed(AskReason.ENCODING, "the gzip stream is broken") from None
    if len(plain) > max_bytes:
        raise _too_large(max_bytes)
    if not stream.eof or stream.unused_data:
        raise AskFailed(AskReason.ENCODING, "the gzip stream does not end where the body does")
    return plain


def _too_large(max_bytes: int) -> AskFailed:
    return AskFailed(AskReason.TOO_LARGE, f"more than {max_bytes} bytes", is_batch_fault=True)
