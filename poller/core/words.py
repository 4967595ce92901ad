"""Upstream's status words: the lists in force, and a channel's own mapping laid over them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import combinations
from typing import Any, Final

from poller.core.evidence import clean_text
from poller.core.model import StatusWords

_LISTS: Final = ("success", "failed", "processing")
_SHOWN: Final = 40

DEFAULT_WORDS: Final = StatusWords(
    success=frozenset({"completed", "success", "finished"}),
    failed=frozenset({"failed", "error", "cancelled"}),
    processing=frozenset({"processing", "pending", "running", "submitted"}),
)


def parse_words(
    success: str | Iterable[str], failed: str | Iterable[str], processing: str | Iterable[str]
) -> StatusWords:
    """The three lists as sets; each is comma separated text or words. Blanks, case and empty parts do not matter.

    Raises ValueError naming a word that stands in two lists.

    >>> sorted(parse_words("Done, ok,", ["failed"], "").success)
    ['done', 'ok']
    """
    sets = [_words(each) for each in (success, failed, processing)]
    for (one, first), (other, second) in combinations(zip(_LISTS, sets, strict=True), 2):
        for word in sorted(first & second):
            raise ValueError(f"the word {clean_text(word, _SHOWN)} is listed as {one} and as {other}")
    return StatusWords(*sets)


def overlay(base: StatusWords, mapping_json: str | None) -> tuple[StatusWords, list[str]]:
    """*base* with the words that a channel's mapping names moved to where it names them, and what is wrong with it.

    A malformed mapping, or one with a word in two lists, leaves *base* as it is; an unknown list is passed over.

    >>> words, findings = overlay(DEFAULT_WORDS, '{"failed": ["not_found", "pending"]}')
    >>> "not_found" in words.failed, "pending" in words.processing, findings
    (True, False, [])
    """
    if mapping_json is None or not mapping_json.strip():
        return base, []
    try:
        mapping = json.loads(mapping_json, object_pairs_hook=_no_key_twice)
    except (ValueError, RecursionError):
        return base, ["status mapping is not well-formed JSON"]
    if mapping is None:
        return base, []
    if not isinstance(mapping, dict):
        return base, ["status mapping is not a JSON object"]
    lists: dict[str, list[str]] = {name: [] for name in _LISTS}
    findings: list[str] = []
    for key, words in mapping.items():
        name = key.strip().lower()
        if name not in lists:
            findings.append(f"status mapping has an unknown list: {clean_text(key, _SHOWN)}")
        elif words is None:
            continue
        elif isinstance(words, list) and all(isinstance(word, str) for word in words):
            lists[name] += words
        else:
            return base, [f"status mapping: {name} is not a list of words"]
    try:
        own = parse_words(*lists.values())
    except ValueError as twice:
        return base, [f"status mapping: {twice}"]
    named = own.success | own.failed | own.processing
    merged = StatusWords(
        success=own.success | (base.success - named),
        failed=own.failed | (base.failed - named),
        processing=own.processing | (base.processing - named),
    )
    return merged, findings


def _words(source: str | Iterable[str]) -> frozenset[str]:
    parts = source.split(",") if isinstance(source, str) else source
    return frozenset(word for part in parts if (word := part.strip().lower()))


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found
