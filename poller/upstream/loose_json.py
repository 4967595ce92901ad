"""JSON as upstreams write it: mended where that is harmless, read strictly, and measured before it is read. Pure."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any, Final

import msgspec

_BOM: Final = b"\xef\xbb\xbf"
# Every escape is consumed in turn, so that the second half of "\\" never starts one; a pair is one alternative.
_ESCAPE = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[dD][89a-fA-F][0-9a-fA-F]{2}|\\.")
_LONE_LENGTH: Final = len(rb"\ud800")
_REPLACEMENT: Final = rb"\ufffd"
_LONGEST_INTEGER: Final = 64


class Twice(dict[str, Any]):
    """A JSON object that gave a key more than once; ``pairs`` has everything that it said."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else Twice(pairs)


def _integer(digits: str) -> int | float:
    # int() refuses more than 4300 digits and is quadratic before that; nothing that long is a number of ours.
    return int(digits) if len(digits) <= _LONGEST_INTEGER else float("inf")


read_strictly = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer).decode
"""JSON text as Python values, slowly; an object that gives a key twice is a ``Twice``. Raises as ``json.loads``."""


def repaired(body: bytes) -> bytes:
    """*body* without byte order mark and unpaired surrogate escapes, which one bad item could spoil it all with.

    Raises ValueError for what is not UTF-8.
    """
    body = body.removeprefix(_BOM)
    if b"\\" in body and (b"\\ud" in body or b"\\uD" in body):
        body = _mended(body)
    if not body.isascii():
        body.decode()  # msgspec passes over the bytes inside Raw unread
    return body


def _mended(body: bytes) -> bytes:
    """*body* with U+FFFD for each unpaired surrogate; in place, as millions of pieces would be many times its size."""
    mended: bytearray | None = None
    for found in _ESCAPE.finditer(body):
        if found.end() - found.start() == _LONE_LENGTH:
            mended = bytearray(body) if mended is None else mended
            mended[found.start() : found.end()] = _REPLACEMENT
    return body if mended is None else bytes(mended)


def has_at_most(limit: int, items: bytes) -> bool:
    """Whether the JSON list *items* has no more than *limit* items, told without making an object of each."""
    if items.count(b",") < limit:
        return True
    try:
        _reader_of(limit).decode(items)
    except msgspec.ValidationError:
        return False
    return True


@cache
def _reader_of(limit: int) -> msgspec.json.Decoder[Any]:
    # A decoder of lists looks at the length last; one of structs that are written as lists stops at one item too many.
    fields = [(f"item_{number}", msgspec.Raw, msgspec.Raw()) for number in range(limit)]
    return msgspec.json.Decoder(msgspec.defstruct("_Items", fields, array_like=True, forbid_unknown_fields=True))


def has_more_values(limit: int, value: bytes) -> bool:
    """Whether the JSON text *value* may hold more than *limit* values; commas and brackets in texts count as well."""
    return len(value) > limit and value.count(b",") + value.count(b"[") + value.count(b"{") > limit
