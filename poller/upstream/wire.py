"""Bytes out, bytes in: the one place that knows what upstream is sent and how its answers are read. Pure.

An answer is read item by item, so that a bad one spoils only itself, and every item is kept as the bytes that came.
What cannot be trusted as a whole (not JSON, too deep, ``code`` not 0, no list) is no evidence: ``AskFailed``.

An item that gives one key twice says nothing, but most decoders keep the last. Here it costs one count to know: in
JSON without blanks before its colons ``":`` occurs once for every key and nowhere else, so an item whose decoded keys
are as many as that has none twice. Only an item that fails this test is decoded a second time, strictly and slowly.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote

import msgspec

from poller.core.evidence import clean_text
from poller.core.model import ABSENT, UNPROVEN, Answer, Kind, Report
from poller.errors import AskFailed, AskReason
from poller.upstream.fields import finished_s, progress_text, usage_of
from poller.upstream.loose_json import Twice, has_at_most, has_more_values, read_strictly, repaired

ERROR_LIMIT: Final = 2048
"""Characters kept of an item's error text."""
WORD_LIMIT: Final = 64
"""Characters kept of a status word; the longest known one has a dozen."""
PAYLOAD_LIMIT: Final = 1 << 20
"""Bytes of an item that can be stored; of a longer one only the beginning is kept, as evidence."""
ITEM_LIMIT: Final = 10_000
"""Items of an answer: ten times as many as one can be asked for."""
VALUE_LIMIT: Final = 500_000
"""Values within one item; ten megabytes have room for millions, which take up twenty times as much once read."""
AROUND_LIMIT: Final = 64 * 1024
"""Bytes of an answer around its items."""

_SAID: Final = Kind.SAID  # a look-up on an enum costs as much as decoding a field
_SUBMIT: Final = "/submit"
_BASE = re.compile(
    r"https?://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?((?:/[A-Za-z0-9._~%!$&'()*+,;=:@-]*)*)",
    re.IGNORECASE,
)
_SPACED_COLON = re.compile(rb'"[ \t\r\n]+:')
_HEAD_LENGTH: Final = 8192
_FINISHED: Final = frozenset({"finished_at", "finish_time", "completed_at"})


class _Envelope(msgspec.Struct):
    data: msgspec.Raw = msgspec.Raw()


class _Named(msgspec.Struct):
    task_id: str | int = ""


_check_syntax = msgspec.json.Decoder(msgspec.Raw).decode
_read_envelope = msgspec.json.Decoder(_Envelope).decode
_read_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_read_name = msgspec.json.Decoder(_Named).decode
_read_object = msgspec.json.Decoder(dict[str, Any]).decode


def ask_url(base_url: str, model: str) -> str:
    """The URL that tasks of *model* are asked about at; a trailing ``/submit`` of *model* is cut.

    Raises ``AskFailed(BAD_REQUEST_PARTS)`` for a base that is not plain http(s)://host[:port][/path], and for a model
    with an empty, ``.`` or ``..`` segment: nothing in either may choose another host or path.

    >>> ask_url("https://up.example/v1/", "flux/pro 1/submit")
    'https://up.example/v1/flux/pro%201/task/list-by-condition'
    """
    base = base_url.rstrip("/")
    plain = _BASE.fullmatch(base)
    if plain is None or not {".", ".."}.isdisjoint(plain[1].split("/")):
        raise AskFailed(AskReason.BAD_REQUEST_PARTS, "base_url is not a plain http(s) address")
    segments = model.removesuffix(_SUBMIT).split("/")
    if not {"", ".", ".."}.isdisjoint(segments):
        raise AskFailed(AskReason.BAD_REQUEST_PARTS, "model has an empty or dotted path segment")
    try:
        path = "/".join(quote(segment, safe="") for segment in segments)
    except UnicodeEncodeError:
        raise AskFailed(AskReason.BAD_REQUEST_PARTS, "model is not valid text") from None
    return f"{base}/{path}/task/list-by-condition"


def ask_body(ids: Sequence[str]) -> bytes:
    """The request body for *ids*, in their order. Raises ``AskFailed`` when one cannot be written as UTF-8."""
    try:
        return msgspec.json.encode({"task_ids": list(ids)})
    except UnicodeEncodeError:
        raise AskFailed(AskReason.BAD_REQUEST_PARTS, "a task id is not valid text") from None


def read_answer(body: bytes, asked: Sequence[str]) -> Answer:
    """One report for each of *asked*, from a decoded HTTP body.

    Ids match exactly or not at all. An id without an item is ABSENT; it is UNPROVEN when the answer has items for ids
    that nobody asked about, or objects that name no id, for then its item may have been there or elsewhere.
    Takes a few times the memory of *body* at most, whatever is in it. Raises ``AskFailed`` when the body as a whole is
    no evidence: NOT_JSON, TOO_DEEP, TOO_LARGE, ENVELOPE, CODE; as a batch fault where a single item may be the reason.
    """
    failure: AskFailed | None = None
    items: Sequence[msgspec.Raw] = ()
    try:
        body = repaired(body)
        items = _items_of(body)
    except RecursionError:
        failure = AskFailed(AskReason.TOO_DEEP, "nested too deep to read", is_batch_fault=True)
    except ValueError:
        # One item may have spoiled it, with a NaN for example; a page in HTML is no list of items.
        is_object = body.startswith(b"{")
        failure = AskFailed(AskReason.NOT_JSON, "the body is not JSON in UTF-8", is_batch_fault=is_object)
    if failure is not None:
        raise failure  # outside the handler: a decoder's error holds the body, and would go along as the context

    is_spaced = _has_spaced_colons(body)
    found: dict[str, Report | None] = dict.fromkeys(asked)
    strangers = unreadable = 0
    is_absence_proven = True
    for raw in items:
        payload = bytes(raw)
        task_id, report = _read_item(payload, is_spaced)
        if len(payload) > PAYLOAD_LIMIT:
            report = report._replace(payload=payload[:_HEAD_LENGTH])
        if not task_id:
            unreadable += 1
            is_absence_proven = is_absence_proven and not payload.startswith(b"{")
        elif task_id in found:
            earlier = found[task_id]
            found[task_id] = report if earlier is None else _merged(earlier, report)
        else:
            strangers += 1
    missing = ABSENT if is_absence_proven and not strangers else UNPROVEN
    return Answer({task_id: report or missing for task_id, report in found.items()}, strangers, unreadable)


def _items_of(body: bytes) -> Sequence[msgspec.Raw]:
    """The items of ``data`` unread; empty for null. Raises AskFailed for an envelope that is not a good answer."""
    if not body.startswith(b"{") and not body.lstrip(b" \t\r\n").startswith(b"{"):
        _check_syntax(body)
        raise AskFailed(AskReason.ENVELOPE, "the body is not an object")
    data = bytes(_read_envelope(body).data)
    # What is left without the list is a few dozen bytes: cheap enough to be read strictly every time.
    rest = (_without(data, body) if data.startswith(b"[") else body).strip()
    if len(rest) > AROUND_LIMIT:
        raise AskFailed(AskReason.ENVELOPE, f"more than {AROUND_LIMIT} bytes around the items")
    envelope = read_strictly(rest.decode())
    if type(envelope) is Twice:
        raise AskFailed(AskReason.ENVELOPE, "the envelope gives a key twice")
    code = envelope.get("code")
    if not (code == "0" or (type(code) in (int, float) and code == 0)):
        shown = f"code is {code}" if type(code) is int else "code is not 0"
        raise AskFailed(AskReason.CODE, shown, is_batch_fault=True)
    if data == b"null":
        return ()
    if not data.startswith(b"["):
        raise AskFailed(AskReason.ENVELOPE, "data is not a list")
    if not has_at_most(ITEM_LIMIT, data):
        raise AskFailed(AskReason.TOO_LARGE, f"more than {ITEM_LIMIT} items", is_batch_fault=True)
    return _read_items(data)


def _without(part: bytes, body: bytes) -> bytes:
    """*body* with null in the place of *part*, which is in it. Looked for by its head: long needles are slow."""
    head = part[:64]
    start = body.find(head)
    while not body.startswith(part, start):
        start = body.find(head, start + 1)
    return body[:start] + b"null" + body[start + len(part) :]


def _has_spaced_colons(body: bytes) -> bool:
    # The searches together cost a tenth of the expression, and on ordinary answers they all fail.
    if b" :" in body or b"\n" in body or b"\t" in body or b"\r" in body:
        return _SPACED_COLON.search(body) is not None
    return False


def _read_item(payload: bytes, is_spaced: bool) -> tuple[str, Report]:
    """The one id that an item names, or an empty one, and its report."""
    if has_more_values(VALUE_LIMIT, payload):
        return _read_huge_item(payload)
    try:
        item = _read_object(payload)
        keys = payload.count(b'":')
        if is_spaced or (keys != len(item) and keys != _count_keys(item)):
            item = read_strictly(payload.decode())
    except (RecursionError, ValueError):
        return _read_odd_item(payload)
    return _report_of(item, payload)


def _read_huge_item(payload: bytes) -> tuple[str, Report]:
    """As ``_read_item``, for one that would take up too much memory: whose it is, and nothing else."""
    try:
        name = _id_of(_read_name(payload).task_id)
    except (RecursionError, ValueError):
        name = ""
    return name, Report(Kind.UNREADABLE, payload=payload)


def _read_odd_item(payload: bytes) -> tuple[str, Report]:
    """As ``_read_item``, for what the quick decoder refuses: no object at all, or a number that fits nowhere."""
    try:
        return _report_of(read_strictly(payload.decode()), payload)
    except (RecursionError, ValueError):
        return "", Report(Kind.UNREADABLE, payload=payload)


def _report_of(item: Any, payload: bytes) -> tuple[str, Report]:
    if type(item) is not dict:
        ids = {_id_of(value) for key, value in item.pairs if key == "task_id"} if type(item) is Twice else set()
        return ids.pop() if len(ids) == 1 else "", Report(Kind.UNREADABLE, payload=payload)
    get = item.get
    task_id = get("task_id")
    if type(task_id) is not str:
        task_id = _id_of(task_id)
    word = get("status")
    usage = get("usage")
    # A word with control characters is refused, not cleaned: cleaning must never turn it into a word that is known.
    if (
        type(word) is not str
        or not (word := word.strip(" \t\r\n").lower())
        or not word.isprintable()
        or type(usage) is Twice
    ):
        return task_id, Report(Kind.UNREADABLE, payload=payload)
    if len(word) > WORD_LIMIT:
        word = f"{word[: WORD_LIMIT - 1]}…"
    is_unusable = False
    if usage is not None:
        usage, is_unusable = usage_of(usage)
    if error := get("error") or "":
        error = _error_text(error)
    ended_s = None if _FINISHED.isdisjoint(item) else finished_s(get(name) for name in sorted(_FINISHED))
    progress = progress_text(get("progress"))
    return task_id, Report(_SAID, word, progress, error, usage, is_unusable, ended_s, payload)


def _merged(earlier: Report, later: Report) -> Report:
    """One report from two items for one id: equal ones count once, others are a contradiction.

    Equal in all that is decided on: the order of keys and opaque results may differ.
    """
    return earlier if earlier[:-1] == later[:-1] else Report(Kind.CONTRADICTION, payload=earlier.payload)


def _id_of(value: object) -> str:
    if type(value) is str:
        return value
    return str(value) if type(value) is int else ""


def _error_text(error: object) -> str:
    try:
        text = error if isinstance(error, str) else json.dumps(error, ensure_ascii=False, separators=(",", ":"))
    except RecursionError:
        # What could just be read may be nested too deep to be written.
        text = "(nested too deep to show)"
    return clean_text(text, ERROR_LIMIT)


def _count_keys(value: Any) -> int:
    """Keys of all objects in *value*."""
    if type(value) is dict:
        return len(value) + sum(_count_keys(part) for part in value.values() if type(part) in (dict, list))
    return sum(_count_keys(part) for part in value if type(part) in (dict, list))
