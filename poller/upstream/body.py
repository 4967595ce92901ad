"""A response body read as a stream, never beyond its byte cap, whatever its encoding makes of it."""

from __future__ import annotations

import zlib
from typing import Final

import httpx

from poller.errors import AskFailed, AskReason

_GZIP_WINDOW: Final = zlib.MAX_WBITS | 16
_PLAIN: Final = ("", "identity")
_GZIP: Final = ("gzip", "x-gzip")


async def read_capped(response: httpx.Response, max_bytes: int) -> bytes:
    """The decoded body of an unread *response*, at most *max_bytes* of it on the wire and in memory.

    Identity was asked for; gzip is decoded all the same, because some proxies compress whatever they are told. Raises
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
    async for part in response.aiter_raw():
        received += len(part)
        if received > max_bytes:
            raise _too_large(max_bytes)
        parts.append(part)
    raw = parts[0] if len(parts) == 1 else b"".join(parts)
    return raw if encoding in _PLAIN else _gunzip(raw, max_bytes)


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
