"""How settings are written: durations, sizes, lists, flags and addresses, from text and back.

Each parser takes text (or a value that is already of its type) and raises ValueError with what is wrong, in words that
repeat neither the value nor any part of it: it may be a secret.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import BeforeValidator

from poller.core.channels import PROXY_SCHEMES
from poller.core.model import Secret

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_UNITS_BYTES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([a-z]*)")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_FLAGS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
_SHOWN_DSN_OPTIONS = ("host", "port", "sslmode")


@dataclass(frozen=True, slots=True)
class Expected:
    """What a kind of setting wants to see, for the end of an error line, and how its values are shown."""

    text: str
    shape: Literal["plain", "size", "url", "secret"] = "plain"


def duration_s(raw: object) -> float:
    """Seconds of ``30``, ``30s``, ``500ms``, ``2m``, ``1h`` or a sum such as ``1h30m``; always finite, never negative.

    >>> [duration_s(text) for text in ("30", "500ms", "1h30m")]
    [30.0, 0.5, 5400.0]
    """
    if isinstance(raw, (int, float)) and not isinstance(raw, bool):
        if not math.isfinite(raw) or raw < 0:
            raise ValueError("is not a finite number of seconds from 0 up")
        return float(raw)
    text = _text(raw).lower()
    if _NUMBER.fullmatch(text):
        return duration_s(float(text))
    parts = _DURATION_PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError("is not a duration")
    return duration_s(sum(float(number) * _UNITS_S[unit] for number, unit in parts))


def size_bytes(raw: object) -> int:
    """Bytes of ``1000``, ``10MB`` (decimal) or ``512KiB`` (binary)."""
    if isinstance(raw, int) and not isinstance(raw, bool):
        return raw
    found = _SIZE.fullmatch(_text(raw).lower())
    if found is None or found[2] not in _UNITS_BYTES:
        raise ValueError("is not a size")
    return round(float(found[1]) * _UNITS_BYTES[found[2]])


def whole(raw: object) -> int:
    """A whole number in decimal digits."""
    if isinstance(raw, int) and not isinstance(raw, bool):
        return raw
    text = _text(raw)
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        raise ValueError("is not a whole number")
    return int(text)


def quota(raw: object) -> int | None:
    """A whole number of quota, or None where there is no limit."""
    return None if raw is None else whole(raw)


def flag(raw: object) -> bool:
    """True or false."""
    if isinstance(raw, bool):
        return raw
    found = _FLAGS.get(_text(raw).lower())
    if found is None:
        raise ValueError("is neither true nor false")
    return found


def words(raw: object) -> tuple[str, ...]:
    """Parts of a comma-separated list in lower case, each once, in order; blanks and empty parts are ignored."""
    if raw == ():
        return ()
    parts = raw if isinstance(raw, (list, tuple)) else _text(raw).split(",")
    cleaned = (_text(part).lower() for part in parts)
    found = tuple(dict.fromkeys(part for part in cleaned if part))
    if not found:
        raise ValueError("names nothing")
    if any(not word.isprintable() or len(word) > 100 for word in found):
        raise ValueError("holds a word with control characters, or of more than 100 characters")
    return found


def whole_numbers(raw: object) -> tuple[int, ...]:
    """Whole numbers of a comma-separated list."""
    parts = raw if isinstance(raw, (list, tuple)) else words(raw)
    return tuple(whole(part) for part in parts)


def lower(raw: object) -> object:
    """Text in lower case and without outer blanks."""
    return _text(raw).lower()


def level(raw: object) -> object:
    """A log level; ``warn`` is the short form of ``warning``."""
    text = _text(raw).lower()
    return {"warn": "warning", "fatal": "error", "critical": "error", "trace": "debug"}.get(text, text)


def header_name(raw: object) -> str:
    """A token that may name an HTTP header."""
    text = _text(raw)
    if not _HEADER_NAME.fullmatch(text):
        raise ValueError("is not a header name")
    return text


def host(raw: object) -> str:
    """An address or name to listen on, brackets of IPv6 taken off."""
    text = _text(raw).removeprefix("[").removesuffix("]")
    if not text or not text.isascii() or any(character in text for character in " /@\t"):
        raise ValueError("is not a host")
    return text


def url_path(raw: object) -> str:
    """An absolute path of plain characters."""
    text = _text(raw)
    if not re.fullmatch(r"/[A-Za-z0-9._~/-]{1,200}", text):
        raise ValueError("is not an absolute path")
    return text


def secret(raw: object) -> Secret | None:
    """Any text without control characters."""
    if raw is None or isinstance(raw, Secret):
        return raw
    text = _text(raw)
    if not text.isprintable():
        raise ValueError("holds a control character or a line break")
    return Secret(text)


def postgres_dsn(raw: object) -> Secret | None:
    """A PostgreSQL URL."""
    found = secret(raw)
    if found is None:
        return None
    text = found.reveal()
    if not text.startswith(("postgres://", "postgresql://")):
        raise ValueError("is not a PostgreSQL URL (gateways on MySQL or SQLite are not served)")
    _check_port(text)
    return found


def redis_url(raw: object) -> Secret | None:
    """Address of a Redis server."""
    found = secret(raw)
    if found is None:
        return None
    if not found.reveal().startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("is not a Redis URL")
    _check_port(found.reveal())
    return found


def proxy(raw: object) -> Secret | None:
    """Address of an HTTP or SOCKS5 proxy; without a scheme it is ``http://``."""
    found = secret(raw)
    if found is None:
        return None
    text = found.reveal() if "://" in found.reveal() else f"http://{found.reveal()}"
    if text.partition("://")[0] not in PROXY_SCHEMES:
        raise ValueError("is a proxy of a kind that is not served")
    _check_port(text)
    if not urlsplit(text).hostname:
        raise ValueError("names no host")
    return Secret(text)


def _check_port(url: str) -> None:
    try:
        parts = urlsplit(url)
        if "," not in parts.netloc:
            _ = parts.port
    except ValueError as error:
        raise ValueError("has an unreadable host or port (write special characters of a password as %XX)") from error


def _text(raw: object) -> str:
    if isinstance(raw, bool):
        return "true" if raw else "false"
    if not isinstance(raw, (str, int, float)):
        raise ValueError("is of the wrong type")
    return str(raw).strip()


Seconds = Annotated[float, BeforeValidator(duration_s), Expected("a duration such as 30, 30s, 500ms, 2m or 1h")]
Bytes = Annotated[int, BeforeValidator(size_bytes), Expected("a size such as 10MB or 512KiB", "size")]
Count = Annotated[int, BeforeValidator(whole), Expected("a whole number")]
Quota = Annotated[int | None, BeforeValidator(quota), Expected("a whole number of quota")]
Flag = Annotated[bool, BeforeValidator(flag), Expected("true or false")]
Words = Annotated[tuple[str, ...], BeforeValidator(words), Expected("words separated by commas")]
Numbers = Annotated[tuple[int, ...], BeforeValidator(whole_numbers), Expected("whole numbers separated by commas")]
HeaderName = Annotated[str, BeforeValidator(header_name), Expected("a header name such as X-Custom-Token")]
Host = Annotated[str, BeforeValidator(host), Expected("an address such as 0.0.0.0, 127.0.0.1 or ::")]
UrlPath = Annotated[str, BeforeValidator(url_path), Expected("a path such as /metrics")]
Hidden = Annotated[Secret | None, BeforeValidator(secret), Expected("text on one line", "secret")]
Dsn = Annotated[
    Secret | None,
    BeforeValidator(postgres_dsn),
    Expected("postgres://USER:PASSWORD@HOST:5432/DATABASE?sslmode=…", "url"),
]
RedisUrl = Annotated[
    Secret | None,
    BeforeValidator(redis_url),
    Expected("redis://USER:PASSWORD@HOST:6379/0, rediss://… or unix://…", "url"),
]
Proxy = Annotated[Secret | None, BeforeValidator(proxy), Expected("http://, https:// or socks5://HOST:PORT", "url")]


def shown_url(value: Secret) -> str:
    """A URL that may be shown: password hidden, options other than harmless ones left out; ``***`` when in doubt.

    >>> shown_url(Secret("postgres://me:hunter2@db:5432/gateway?password=hunter2&sslmode=disable"))
    'postgres://me:***@db:5432/gateway?sslmode=disable'
    """
    text = value.reveal()
    try:
        url = urlsplit(text)
    except ValueError:
        return "***"
    # An unescaped / ? or # in a password moves the rest of it, and the @, out of the place where they are looked for.
    if not url.scheme or url.fragment or "@" in text.replace("@", "", 1) or ("@" in text) != ("@" in url.netloc):
        return "***"
    user = f"{url.username or ''}{':***' if url.password is not None else ''}@" if "@" in url.netloc else ""
    options = "&".join(f"{key}={given}" for key, given in parse_qsl(url.query) if key in _SHOWN_DSN_OPTIONS)
    return f"{url.scheme}://{user}{url.netloc.rpartition('@')[2]}{url.path}{'?' + options if options else ''}"


def shown_duration(value_s: float) -> str:
    """Seconds in the largest unit that writes them as a whole number.

    >>> [shown_duration(value) for value in (0.5, 0.0, 90.0, 3600.0)]
    ['500ms', '0s', '90s', '1h']
    """
    for unit in ("d", "h", "m", "s"):
        count = value_s / _UNITS_S[unit]
        if count == int(count) and (count or unit == "s"):
            return f"{int(count)}{unit}"
    return f"{value_s}s" if value_s > 1 else f"{value_s * 1000:g}ms"


def shown_size(value: int) -> str:
    """Bytes in the largest unit that writes them as a whole number."""
    for unit, name in ((10**9, "GB"), (2**30, "GiB"), (10**6, "MB"), (2**20, "MiB"), (10**3, "KB"), (2**10, "KiB")):
        if value and value % unit == 0:
            return f"{value // unit}{name}"
    return str(value)


def shown(value: object, expected: Expected) -> str:
    """A parsed value as text that may be printed. Unset is ``-``."""
    if value is None or value == ():
        return "-"
    if isinstance(value, Secret):
        return shown_url(value) if expected.shape == "url" else "***"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return shown_duration(value)
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    if isinstance(value, int) and expected.shape == "size":
        return shown_size(value)
    return str(value)
