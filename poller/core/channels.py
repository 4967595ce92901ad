"""A row of the gateway's ``channels``, read and checked before anybody is asked with it.

A finding is one line for the operator; it names the fault and never the key, the proxy or an address with a password.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from poller.core.evidence import clean_text
from poller.core.model import Channel, Secret, StatusWords
from poller.core.words import overlay

_KEY: Final = re.compile(r"[\x21-\x7e]{1,512}")
_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_MEANINGFUL: Final = re.compile(
    r".*(?:authoriz|api-?key).*"
    r"|(?:accept|access-control|authentication|cache-control|cf|client-ip|content|cookie2?|date|dpop|early-data|expect"
    r"|fastly|forwarded|from|host|http2?|if|max-forwards|origin|pragma|prefer|priority|range|referer|sec|true-client-ip"
    r"|upgrade|via|x-(?:amz|arr|client-ip|cluster|envoy|forwarded|goog|host|http|method|ms|original|proxy|real-ip"
    r"|remote|rewrite|url))(?:-.*)?"
)
"""Names that mean something to upstreams, proxies or caches: as an operator's own choice maybe, from a task never."""
_OUR_HEADERS: Final = frozenset(
    {
        "accept",
        "accept-encoding",
        "authorization",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "cookie",
        "expect",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
    }
)
_HOST: Final = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|)")
_UNIT_S: Final = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}
PROXY_SCHEMES: Final = ("http", "https", "socks5", "socks5h")
"""Proxies that asks can go through. Names are left to a SOCKS proxy in both spellings."""
_LONGEST_URL: Final = 2048
_LONGEST_TIMEOUT_S: Final = 3600.0
_MAPPING_FIELD: Final = "custompass_status_mapping"
_ENABLED: Final = 1


class ChannelRow(NamedTuple):
    """The columns as read; None where the profile has no such column or the row no value."""

    id: int
    type: int
    name: str | None
    key: str | None
    base_url: str | None
    mapping: str | None
    other: str | None
    setting: str | None
    settings: str | None
    channel_info: str | None


def read_channel(row: ChannelRow, base_words: StatusWords, header_key: str) -> Channel:
    """*row* as a Channel; whatever is wrong with it is in ``findings``, and ``askable`` says whether it can be asked.

    *base_words* are the words of the settings, *header_key* their header for the client's token.
    """
    findings: list[str] = []
    base_url = _base_url(row.base_url, findings)
    keys = _keys(row, findings)
    setting = _object(row.setting, "setting", findings)
    settings = _object(row.settings, "settings", findings)
    proxy, has_usable_proxy = _proxy(setting.get("proxy"), findings)
    words = base_words
    for mapping in (settings.get(_MAPPING_FIELD), setting.get(_MAPPING_FIELD), row.mapping):
        text = mapping if mapping is None or isinstance(mapping, str) else json.dumps(mapping)
        words, faults = overlay(words, text)
        findings += faults
    return Channel(
        id=row.id,
        type=row.type,
        name=clean_text(row.name or "", 100),
        base_url=base_url,
        keys=keys,
        words=words,
        token_header=_token_header(row.other, header_key, findings),
        proxy=proxy,
        timeout_s=_timeout_s(setting.get("timeout"), findings),
        findings=tuple(findings),
        askable=bool(base_url and keys and has_usable_proxy),
    )


def is_header_name(name: str) -> bool:
    """Whether *name* may carry a client's token: a valid header name that is none of a request's own.

    >>> is_header_name("X-Custom-Token"), is_header_name("Authorization"), is_header_name("a b")
    (True, False, False)
    """
    plain = _plain(name)
    return _HEADER.fullmatch(name) is not None and plain not in _OUR_HEADERS and not plain.startswith("proxy-")


def is_header_value(text: str) -> bool:
    """Whether *text* can stand in a header line as a key or token: visible ASCII, not too long."""
    return _KEY.fullmatch(text) is not None


def client_header(saved: str, channel_header: str) -> str:
    """The header that a task's token travels in: the name *saved* with it, else the channel's; empty for none at all.

    In databases of the fork's first version a user can make up what looks saved, so that a name which may mean more
    than a client's token counts only where it is the operator's own.

    >>> client_header("X-Own", "X-Custom-Token"), client_header("", "X-Custom-Token")
    ('X-Own', 'X-Custom-Token')
    >>> client_header("X-Api-Key", "X-Custom-Token"), client_header("x-api-key", "X-Api-Key")
    ('', 'X-Api-Key')
    """
    if not saved or saved.lower() == channel_header.lower():
        return channel_header
    return saved if is_header_name(saved) and not _MEANINGFUL.fullmatch(_plain(saved)) else ""


def _plain(name: str) -> str:
    """*name* as many servers hand it to the program behind them: there ``_`` is ``-``."""
    return name.lower().replace("_", "-")


def _base_url(text: str | None, findings: list[str]) -> str:
    """The address without trailing slash, or empty with the reason in *findings*."""
    url = (text or "").strip()
    fault = _url_fault(url, ("http", "https"))
    if fault:
        findings.append(f"base_url {fault}")
        return ""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")


def _url_fault(url: str, schemes: tuple[str, ...]) -> str:
    """What is wrong with *url*, in words that follow its name; empty when nothing is."""
    if not url:
        return "is missing"
    if len(url) > _LONGEST_URL:
        return f"is longer than {_LONGEST_URL} characters"
    if not all("!" <= letter <= "~" for letter in url):
        return "holds blanks, control or non-ASCII characters"
    if "\\" in url:
        return "holds a backslash"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is no valid address"
    if parts.scheme not in schemes or not parts.netloc:
        return f"does not begin with {' or '.join(f'{scheme}://' for scheme in schemes)} and a host"
    if "@" in parts.netloc:
        return "holds a user name or password"
    if "?" in url or "#" in url:
        return "holds a query or fragment"
    if not _HOST.fullmatch(parts.netloc) or port == 0:
        return "has no valid host and port"
    return ""


def _keys(row: ChannelRow, findings: list[str]) -> tuple[Secret, ...]:
    """The enabled, usable keys in order, each once."""
    info = _object(row.channel_info, "channel_info", findings)
    text = (row.key or "").strip()
    is_multi = info.get("is_multi_key") is True
    statuses = info.get("multi_key_status_list") if is_multi else None
    if not isinstance(statuses, dict):
        statuses = {}
    usable: dict[str, None] = {}
    for index, key in enumerate(_split(text, findings) if is_multi else [text]):
        if not key or statuses.get(str(index), _ENABLED) != _ENABLED:
            continue
        if _KEY.fullmatch(key):
            usable[key] = None
        else:
            where = f"key {index}" if is_multi else "key"
            findings.append(f"{where} holds blanks, line breaks or other characters that no header takes")
    if not usable:
        findings.append("no key is present, enabled and usable" if is_multi else "key is missing or unusable")
    return tuple(Secret(key) for key in usable)


def _split(text: str, findings: list[str]) -> list[str]:
    """The keys of a multi-key channel by index; what is no text counts as an empty key, so that indexes stay."""
    if not text.startswith("["):
        return [key.strip() for key in text.split("\n")]
    try:
        keys = json.loads(text)
    except (ValueError, RecursionError):
        findings.append("key begins like a JSON list but is none")
        return []
    if not all(isinstance(key, str) for key in keys):
        findings.append("key holds list entries that are no text")
    return [key.strip() if isinstance(key, str) else "" for key in keys]


def _object(text: str | None, column: str, findings: list[str]) -> dict[str, Any]:
    if text is None or not text.strip():
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    if isinstance(value, dict):
        return value
    if value is not None:
        findings.append(f"{column} is no JSON object")
    return {}


def _proxy(value: object, findings: list[str]) -> tuple[Secret | None, bool]:
    """The channel's proxy, and False when there is one that cannot be used: going past it would be worse."""
    if value is None or value == "":
        return None, True
    url = value.strip() if isinstance(value, str) else ""
    bare = re.sub(r"(?<=://)[^/@]*@", "", url)  # a proxy, unlike an upstream, may have a user name and password
    fault = _url_fault(bare, PROXY_SCHEMES) if isinstance(value, str) else "is no text"
    if fault:
        findings.append(f"setting.proxy {fault}")
        return None, False
    return Secret(url), True


def _timeout_s(value: object, findings: list[str]) -> float | None:
    """Seconds, from a number of them or a duration such as ``500ms``."""
    if value is None or value == "":
        return None
    seconds = math.nan
    if isinstance(value, str) and (found := _DURATION.fullmatch(value.strip().lower())):
        seconds = float(found[1]) * _UNIT_S[found[2]]
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(min(max(value, 0), _LONGEST_TIMEOUT_S + 1))
    if not 0 < seconds <= _LONGEST_TIMEOUT_S:
        findings.append(f"setting.timeout is no duration of up to {_LONGEST_TIMEOUT_S:.0f} s")
        return None
    return seconds


def _token_header(other: str | None, header_key: str, findings: list[str]) -> str:
    name = (other or "").strip()
    if not name:
        return header_key
    if not is_header_name(name):
        findings.append("other is no header name that a client's token may travel in")
        return header_key
    return name
