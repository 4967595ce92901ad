"""How an event becomes a line: redaction, then ``text``, ``json`` or ``console``.

An event is a mapping with ``timestamp`` (aware UTC), ``level``, ``event`` and then the facts in their order.
"""

from __future__ import annotations

import json
import math
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import unquote, unquote_plus, urlsplit

from poller.core.model import Secret

_LONGEST_VALUE = 2000
_LONGEST_TRACE = 6000
_SHORTEST_SECRET = 4
_HIDDEN = "***"
_HEAD = ("timestamp", "level", "event")
_SECRET_KEYS = frozenset(
    {"key", "dsn", "password", "passwd", "secret", "token", "authorization", "cookie", "header", "headers", "body"}
)
_SECRET_ENDINGS = ("_key", "_dsn", "_password", "_secret", "_token", "_header")
# The placeholder of our own hints is no credential.
_IN_URL = re.compile(r"(?<=://)(?!USER:PASSWORD@)[^\s/@\"']*:[^\s\"']*@|(?<=://)(?!USER:PASSWORD@)[^\s/@\"':]+@")
_SCHEMES = re.compile(r"\b(bearer|basic|token)(\s+)[^\s\"',;]{4,}", re.IGNORECASE)
# Hidden, the bare address of a proxy would take parts of other addresses along that begin like it.
_HOST = r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]+)?"
_ADDRESS = re.compile(rf"(?:postgres(?:ql)?|rediss?)://{_HOST}(?:/\w*)?|(?:https?|socks5h?)://{_HOST}/?")
_DSN_PASSWORD = re.compile(r"\b\w*password\s*=\s*(?:'((?:[^'\\]|\\.)*)'|((?:[^\s\\]|\\.)+))", re.IGNORECASE)
_QUERY_PASSWORD = re.compile(r"[?&]\w*pass\w*=([^&#\s]*)", re.IGNORECASE)
_URL = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]*://")
_KEYS = re.compile(r"\bsk-[A-Za-z0-9_-]{8,}")
_PAIRS = re.compile(
    r"\b(password|passwd|secret|api_?key|access_token|authorization)(\s*[=:]\s*)[^\s&\"',;]+", re.IGNORECASE
)
_LEVEL_NAMES = {"debug": "DEBUG", "info": "INFO", "warning": "WARN", "error": "ERROR"}
_BARE = re.compile(r"[^\s\"=\\]+")


class Redactor:
    """Hides secrets by the name of a field, by known value and by look."""

    def __init__(self) -> None:
        self._values: set[str] = set()
        self._known: re.Pattern[str] | None = None

    def add(self, *secrets: Secret) -> None:
        """Hide these values, and the passwords inside those that are URLs, as they stand and percent-decoded."""
        for secret in secrets:
            self._values |= {part for part in _parts(secret.reveal()) if len(part) >= _SHORTEST_SECRET}
        if self._values:
            longest_first = sorted(self._values, key=len, reverse=True)
            self._known = re.compile("|".join(re.escape(value) for value in longest_first))

    def clean(self, text: str) -> str:
        """*text* with every secret replaced by ``***``."""
        if self._known is not None:
            text = self._known.sub(_HIDDEN, text)
        text = _IN_URL.sub(f"{_HIDDEN}@", text)
        text = _SCHEMES.sub(rf"\1\2{_HIDDEN}", text)
        text = _PAIRS.sub(rf"\1\2{_HIDDEN}", text)
        return _KEYS.sub(_HIDDEN, text)

    def clean_event(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """The event with plain, bounded, secret-free values; None is left out and an exception becomes text."""
        cleaned: dict[str, Any] = {}
        for key, value in event.items():
            if value is None:
                continue
            if key in _HEAD:
                cleaned[key] = value
            elif key == "exc_info":
                cleaned["exception"] = self.clean(_traceback(value))
            elif key in _SECRET_KEYS or key.endswith(_SECRET_ENDINGS):
                cleaned[key] = _HIDDEN
            else:
                cleaned[key] = self._clean_value(value)
        return cleaned

    def _clean_value(self, value: object) -> object:
        if isinstance(value, (bool, int, datetime)):
            return value
        if isinstance(value, float):
            return round(value, 6) if math.isfinite(value) else str(value)
        if isinstance(value, Mapping):
            return {str(key): inner for key, inner in self.clean_event({str(k): v for k, v in value.items()}).items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self._clean_value(inner) for inner in list(value)[:100]]
        text = str(value) if not isinstance(value, BaseException) else f"{type(value).__name__}: {value}"
        text = self.clean(text[: 4 * _LONGEST_VALUE])
        return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"


def text_line(event: Mapping[str, Any]) -> str:
    """The form that operators' greps and awk scripts read.

    ``2026-01-01T12:00:02Z [DEBUG] custompass: polling_tasks channel_id=1 task_count=5 duration=0.512s``
    """
    facts = dict(event)
    stamp, level, name = facts.pop("timestamp"), facts.pop("level"), facts.pop("event")
    parts = [f"{stamp:%Y-%m-%dT%H:%M:%SZ} [{_LEVEL_NAMES[level]}] custompass: {_plain(name)}"]
    for key, value in facts.items():
        if key.endswith("_s") and isinstance(value, (int, float)) and not isinstance(value, bool):
            parts.append(f"{key.removesuffix('_s')}={value:.3f}s")
        else:
            parts.append(f"{key}={_plain(value)}")
    return " ".join(parts)


def json_line(event: Mapping[str, Any]) -> str:
    """One JSON object in ASCII; times in RFC 3339 with milliseconds."""
    facts = dict(event)
    stamp: datetime = facts.pop("timestamp")
    head = {"timestamp": f"{stamp:%Y-%m-%dT%H:%M:%S}.{stamp.microsecond // 1000:03d}Z", "level": facts.pop("level")}
    return json.dumps({**head, "logger": "custompass", **facts}, default=str, allow_nan=False)


def console_line(*, colours: bool) -> Callable[[Mapping[str, Any]], str]:
    """A writer of lines for a person at a terminal: time of day, level, event, facts."""
    paint = {"debug": "2", "info": "32", "warning": "33", "error": "1;31"} if colours else {}

    def write(event: Mapping[str, Any]) -> str:
        facts = dict(event)
        stamp, level, name = facts.pop("timestamp"), facts.pop("level"), facts.pop("event")
        exception = facts.pop("exception", None)
        label = f"{_LEVEL_NAMES[level]:<5}"
        label = f"\x1b[{paint[level]}m{label}\x1b[0m" if level in paint else label
        shown = " ".join(
            f"{key.removesuffix('_s')}={value:.3f}s"
            if key.endswith("_s") and isinstance(value, float)
            else f"{key}={_plain(value)}"
            for key, value in facts.items()
        )
        lines = [f"{stamp:%H:%M:%S} {label} {_plain(name):<18} {shown}".rstrip()]
        if exception is not None:
            lines += ["    " + escaped(line) for line in str(exception).splitlines()]
        return "\n".join(lines)

    return write


def _plain(value: object) -> str:
    """A value as one word, or quoted: blanks, quotes, signs of equality and control characters never stand bare."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (dict, list)):
        value = json.dumps(value, default=str)
    text = str(value)
    if _BARE.fullmatch(text) and text.isprintable():
        return text
    return '"' + escaped(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def escaped(text: str) -> str:
    r"""*text* fit for a terminal: what is not printable, such as ESC and bidirectional marks, is spelt out.

    >>> escaped("job\x1b[2J\u202e1")
    'job\\x1b[2J\\u202e1'
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _ESCAPES.get(char) or _escape(char) for char in text)


_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _escape(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _traceback(error: object) -> str:
    """The end of the traceback: the innermost frames and the message, never the values of variables."""
    if error is True:
        error = sys.exc_info()[1]
    if not isinstance(error, BaseException):
        return str(error)
    text = "".join(traceback.format_exception(error)).rstrip()
    return text if len(text) <= _LONGEST_TRACE else f"…{text[-_LONGEST_TRACE:]}"


def _parts(value: str) -> set[str]:
    """The secret itself; of a URL or DSN also whatever may be a password, and nothing where it is a mere address."""
    if _ADDRESS.fullmatch(value):
        return set()
    if not _URL.match(value):
        return {value} | {re.sub(r"\\(.)", r"\1", quoted or plain) for quoted, plain in _DSN_PASSWORD.findall(value)}
    found = {value}
    passwords = set(_QUERY_PASSWORD.findall(value))
    try:
        url = urlsplit(value)
        # What stands alone before the host of a proxy is a token, not a name.
        passwords |= {url.password or "", "" if url.password or "sql" in url.scheme else url.username or ""}
    except ValueError:
        pass
    # What urlsplit misses when a password holds characters that should have been written as %XX.
    authority = value.partition("://")[2].rpartition("@")[0]
    passwords.add(authority.partition(":")[2])
    return found | passwords | {decoded(each) for each in passwords for decoded in (unquote, unquote_plus)}
