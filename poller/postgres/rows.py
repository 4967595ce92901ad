"""A row of a page as a Task. What the gateway saved in JSON is read here and never in SQL, where one odd row would cost
the whole page.

fork   ``properties.input`` is itself JSON text ``{"payload", "token", "headerKey"}``; whatever else stands there is the
       bare request that the first version kept, and what it says is its user's word, not the gateway's;
       ``properties.billing_info`` holds the price terms
main   ``properties`` has the model names, ``private_data`` the upstream id, the key and ``billing_context``; a row with
       neither is one of the fork that this gateway was upgraded from

What is missing or of the wrong type reads as empty. JSON that cannot be read at all leaves the task without an upstream
id: nobody is asked about it with the wrong id, key or token.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from poller.core.channels import is_header_value
from poller.core.model import Secret, State, Task

_ABSENT: Final = msgspec.Raw()
_HALF_PAIRS: Final = re.compile(
    r"(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"  # a whole pair stays
    r"|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
    r"|(\\.)"
)
_STRINGS_AND_BRACKETS: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{]|[\]}]', re.DOTALL)


class Note(NamedTuple):
    """What ``poller.watch`` remembers about an open task."""

    sightings: int = 0
    sighted_s: float = 0.0
    is_quarantined: bool = False
    key_digest: str = ""
    task_id: str | None = None
    """Whose it is; None where that was not kept."""


NOTHING: Final = Note()


class _Properties(msgspec.Struct):
    input: msgspec.Raw = _ABSENT
    billing_info: msgspec.Raw = _ABSENT
    upstream_model_name: msgspec.Raw = _ABSENT
    origin_model_name: msgspec.Raw = _ABSENT


class _Input(msgspec.Struct, forbid_unknown_fields=True):
    payload: msgspec.Raw = _ABSENT
    token: msgspec.Raw = _ABSENT
    headerKey: msgspec.Raw = _ABSENT  # noqa: N815 - the fork's own name


class _PrivateData(msgspec.Struct):
    upstream_task_id: msgspec.Raw = _ABSENT
    key: msgspec.Raw = _ABSENT
    billing_context: msgspec.Raw = _ABSENT


class _BillingContext(msgspec.Struct):
    origin_model_name: msgspec.Raw = _ABSENT


class _Saved(NamedTuple):
    """What the JSON columns of a row come to."""

    upstream_id: str
    model: str
    price_model: str
    key: str = ""
    client_token: str = ""
    token_header: str = ""
    terms: str = ""
    is_forks: bool = False


_S = TypeVar("_S", bound=msgspec.Struct)


class _UnreadableError(Exception):
    """Saved JSON that no decoder takes."""


def _read(kind: type[_S], text: str) -> _S:
    """The fields of *kind* in the JSON object *text*; an empty one for any other JSON.

    Raises _UnreadableError for what is no JSON, or is nested too deep.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError:
        return kind()
    except RecursionError as error:
        raise _UnreadableError from error
    except (msgspec.DecodeError, UnicodeEncodeError):
        pass
    try:
        # Half a surrogate pair is JSON to the gateway and to PostgreSQL, but not to msgspec.
        return msgspec.json.decode(
            _HALF_PAIRS.sub(lambda escape: escape[0] if escape[1] or escape[2] else "\\ufffd", text), type=kind
        )
    except msgspec.ValidationError:
        return kind()
    except (ValueError, RecursionError) as error:
        raise _UnreadableError from error


def _string(raw: msgspec.Raw) -> str:
    try:
        value = msgspec.json.decode(raw)
    except (ValueError, RecursionError):
        return ""
    return value if isinstance(value, str) else ""


def _object(raw: msgspec.Raw) -> str:
    text = bytes(raw).decode("utf-8", "replace").strip()
    return text if text.startswith("{") else ""


def _documented(task_id: str, action: str, _properties: str | None, _private: str | None) -> _Saved:
    return _Saved(task_id, action, action)


def _fork(task_id: str, action: str, properties: str | None, _private: str | None) -> _Saved:
    found = _read(_Properties, properties) if properties else _Properties()
    client = _envelope(_string(found.input).strip())
    token = _string(client.token).strip() if bytes(client.payload) else ""
    if not is_header_value(token):
        token = ""
    return _Saved(
        task_id,
        action,
        action,
        client_token=token,
        token_header=_string(client.headerKey).strip() if token else "",
        terms=_object(found.billing_info),
    )


def _envelope(text: str) -> _Input:
    """What the gateway wrapped a request in; empty where *text* is no such wrapping."""
    if not text.startswith("{"):
        return _Input()
    try:
        return _read(_Input, text)
    except _UnreadableError:
        pass
    try:
        # The request inside is its user's, and may be nested too deep for any decoder.
        return _read(_Input, _hollow(text))
    except _UnreadableError:
        return _Input()


def _hollow(text: str) -> str:
    """The JSON object *text* with null in place of every object and list in it."""
    kept, depth, start = [], 0, 0
    for mark in _STRINGS_AND_BRACKETS.finditer(text):
        if mark[0] in "[{":
            depth += 1
            if depth == 2:
                kept += [text[start : mark.start()], "null"]
        elif mark[0] in "]}":
            if depth == 2:
                start = mark.end()
            depth -= 1
    return "".join([*kept, text[start:]])


def _main(task_id: str, action: str, properties: str | None, private: str | None) -> _Saved:
    found = _read(_Properties, properties) if properties else _Properties()
    if not private and not bytes(found.origin_model_name) and not bytes(found.upstream_model_name):
        # From before the gateway was upgraded from the fork.
        return _fork(task_id, action, properties, private)._replace(is_forks=True)
    hidden = _read(_PrivateData, private) if private else _PrivateData()
    terms = _object(hidden.billing_context)
    origin = _string(found.origin_model_name)
    billed = _string(_read(_BillingContext, terms).origin_model_name) if terms else ""
    return _Saved(
        _string(hidden.upstream_task_id) or task_id,
        _string(found.upstream_model_name) or origin or action,
        billed or origin or action,
        key=_string(hidden.key).strip(),
        terms=terms,
    )


_READERS: Final[dict[str, Callable[[str, str, str | None, str | None], _Saved]]] = {
    "documented": _documented,
    "fork": _fork,
    "main": _main,
}


def read_task(
    profile: str, channel_id: int, row: Any, note: Note = NOTHING, heavy: tuple[str | None, str | None] | None = None
) -> Task:
    """The Task in a *row* of statement page; *heavy* has the JSON columns that the page left out."""
    properties, private = heavy or (row["properties"], row["private_data"])
    task_id, action = row["task_id"], row["action"]
    try:
        saved = _READERS[profile](task_id, action, properties, private)
    except _UnreadableError:
        saved = _Saved("", action, action)
    return Task(
        pk=row["pk"],
        task_id=task_id,
        upstream_id=saved.upstream_id,
        user_id=row["user_id"],
        channel_id=channel_id,
        model=saved.model,
        price_model=saved.price_model,
        group=row["task_group"],
        state=State(row["state"]),
        progress=row["progress"],
        reserved=row["reserved"],
        submitted_s=row["submitted_s"],
        key=Secret(saved.key) if saved.key else None,
        client_token=Secret(saved.client_token) if saved.client_token else None,
        token_header=saved.token_header,
        terms=saved.terms,
        sightings=note.sightings,
        sighted_s=note.sighted_s,
        key_digest=note.key_digest,
        is_forks=saved.is_forks,
    )
