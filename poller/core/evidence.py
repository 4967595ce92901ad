"""Upstream's text made fit to keep: cleaned, bounded, and in a form that PostgreSQL takes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Final

from poller.core.model import Report, Secret

_EVIDENCE_BYTES: Final = 2048
_SHORTEST_SECRET: Final = 8
_HIDDEN: Final = "***"
_ESCAPED_ASCII: Final = rb"\u00"
_PIECES: Final = re.compile("[^A-Za-z0-9]+")
_LONGEST_NUMBER: Final = 320
_SMALLEST_EXPONENT: Final = -308
_TEXTS: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_LARGE: Final = re.compile(r"(?<![0-9.])(?:[0-9.]{290,}+(?:[eE][-+]?[0-9]+)?|[0-9.]++[eE][-+]?[0-9]{2,})")
"""Numbers that may be out of range; of all others the decoder, at thirty times the speed, has to say nothing."""

_BREAKS: Final = re.compile("[\t-\r\x85\u2028\u2029]+")
_UNWANTED: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # control characters
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # bidirectional marks, embeddings, overrides, isolates
    "\ufeff\ud800-\udfff]"  # byte order mark, lone surrogates
)
_ESCAPES: Final = re.compile(
    r"(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"  # a whole pair stays
    r"|\\u(?:0000|[dD][89a-fA-F][0-9a-fA-F]{2})"  # NUL or half a pair does not
    r"|(\\.)"
)


def clean_text(text: str, limit: int) -> str:
    """*text* in one line of at most *limit* characters, without NUL, control or bidi characters and lone surrogates.

    >>> clean_text("bad\\x00 byte\\nand more\\u202e", 12)
    'bad byte and'
    """
    text = _BREAKS.sub(" ", text[: 4 * limit + 64])
    return _UNWANTED.sub("", text).strip()[:limit].rstrip()


def storable_json(payload: bytes, limit: int = 1 << 20) -> str | None:
    r"""*payload* as text that PostgreSQL's json and jsonb and the gateway's decoder all take; None when there is none.

    NUL escapes and halves of surrogate pairs become U+FFFD. None for what is empty, longer than *limit* bytes, no
    JSON, nested too deep, or holds a number beyond the range of a double.

    >>> storable_json(b'{"error": "bad\\u0000byte"}')
    '{"error": "bad\\ufffdbyte"}'
    >>> storable_json(b'{"n": 1e400}') is None
    True
    """
    if not payload or len(payload) > limit:
        return None
    try:
        text = payload.decode()
        if "\\u" in text:
            text = _ESCAPES.sub(_mended, text)
        _JSON.decode(text)
        if _LARGE.search(text) and not all(map(_is_in_range, _LARGE.findall(_TEXTS.sub("", text)))):
            return None
    except (ValueError, RecursionError):
        return None
    return text


def evidence_of(report: Report) -> str:
    """What was seen, in one line of at most 2 KiB of UTF-8: the kind, the word, the item itself as far as it fits."""
    parts = [report.kind.value]
    if report.word:
        parts.append(clean_text(report.word, 64))
    if report.usage_unusable:
        parts.append("usage_unusable")
    if report.payload:
        parts.append(clean_text(report.payload[: 2 * _EVIDENCE_BYTES].decode("utf-8", "replace"), _EVIDENCE_BYTES))
    elif report.error:
        parts.append(clean_text(report.error, _EVIDENCE_BYTES))
    return " ".join(parts).encode()[:_EVIDENCE_BYTES].decode("utf-8", "ignore")


def is_echoed(secret: Secret, body: bytes) -> bool:
    """Whether *secret* may be somewhere in *body*, a JSON text, in whatever way an encoder writes it: a quick look.

    Its longest piece of letters and digits decides, for encoders differ in what else they escape; one that escapes
    those as well is taken to have written it.
    """
    return max(_PIECES.split(secret.reveal()), key=len).encode() in body or _ESCAPED_ASCII in body


def redacted(report: Report, secrets: Iterable[Secret], known_words: Collection[str]) -> Report:
    """*report* with every one of *secrets* in its texts replaced by ``***``; the same object when there is none.

    An upstream may echo our own key. Secrets under 8 characters are left alone: they would hit ordinary text. So is a
    status word that is one of *known_words*: it says nothing new, and a client that named its token after a word, or a
    part of one, would hide from us how its tasks went.
    """
    for secret in secrets:
        value = secret.reveal()
        if len(value) < _SHORTEST_SECRET:
            continue
        clean = report._replace(
            word=report.word if report.word in known_words else _hidden(report.word, value.lower()),
            progress=_hidden(report.progress, value),
            error=_hidden(report.error, value),
            payload=_written(value).sub(_HIDDEN.encode(), report.payload),
        )
        report = report if clean == report else clean
    return report


def _hidden(text: str, value: str) -> str:
    """*text* without *value*, and without the beginning of it at which *text* was cut."""
    text = text.replace(value, _HIDDEN)
    cut = text.removesuffix("…")
    for length in range(len(value) - 1, _SHORTEST_SECRET - 1, -1):
        if cut.endswith(value[:length]):
            return cut[:-length] + _HIDDEN
    return text


@lru_cache(maxsize=256)
def _written(value: str) -> re.Pattern[bytes]:
    """Every way to write *value* within a JSON string."""
    ways = (f"{re.escape(each)}|\\\\{re.escape(each)}|\\\\u(?i:{ord(each):04x})" for each in value)
    return re.compile("".join(f"(?:{way})" for way in ways).encode())


def _mended(escape: re.Match[str]) -> str:
    return escape[0] if escape[1] or escape[2] else "\\ufffd"


def _is_in_range(number: str) -> bool:
    exponent = number.lower().partition("e")[2]
    return (
        len(number) <= _LONGEST_NUMBER and math.isfinite(float(number)) and int(exponent or "0") >= _SMALLEST_EXPONENT
    )


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


_JSON: Final = json.JSONDecoder(parse_constant=_no_constant)
