"""Lines of configuration that would map the status words that no list knows: for a person to check, never applied.

A guess errs towards ``processing``, the one list that moves no money.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from poller.core.model import StatusWords

_VARIABLES: Final = {
    "success": "CUSTOM_PASS_STATUS_SUCCESS",
    "failed": "CUSTOM_PASS_STATUS_FAILED",
    "processing": "CUSTOM_PASS_STATUS_PROCESSING",
}
_LIKE_SUCCESS: Final = frozenset({"complete", "done", "ok", "ready", "succeed", "succeeded", "successful"})
_LIKE_FAILED: Final = frozenset(
    {
        "abort",
        "aborted",
        "canceled",
        "cancel",
        "expired",
        "fail",
        "failure",
        "not_found",
        "rejected",
        "timed_out",
        "timeout",
    }
)
_CUT_AT: Final = 64
"""Words are kept up to this length; a longer one would not be matched by what was kept."""


def guess(word: str) -> str:
    """The list that *word* most likely belongs to: ``success``, ``failed`` or ``processing``.

    >>> guess("succeeded"), guess("canceled"), guess("teleporting")
    ('success', 'failed', 'processing')
    """
    if word in _LIKE_SUCCESS:
        return "success"
    return "failed" if word in _LIKE_FAILED else "processing"


def environment_lines(words: Iterable[str], base: StatusWords) -> list[str]:
    """A line for each variable that would have to change for all of *words* to be known, its present words included.

    Words that the form of the variable cannot hold are left out: those with a comma, and those that were cut.

    >>> base = StatusWords(frozenset({"done"}), frozenset(), frozenset({"running", "pending"}))
    >>> environment_lines(["teleporting"], base)
    ['CUSTOM_PASS_STATUS_PROCESSING=pending,running,teleporting']
    """
    wanted: dict[str, list[str]] = {}
    for word in sorted(set(words)):
        if _is_whole(word) and "," not in word:
            wanted.setdefault(guess(word), []).append(word)
    return [
        f"{variable}={shlex.quote(','.join([*sorted(getattr(base, name)), *wanted[name]]))}"
        for name, variable in _VARIABLES.items()
        if name in wanted
    ]


def mapping(words: Iterable[str], current: str | None = None) -> str:
    """JSON of a channel's ``custompass_status_mapping``: *current* with *words* added; only them where it is malformed.

    Empty when none of *words* can be mapped.

    >>> mapping(["teleporting"], '{"failed": ["not_found"]}')
    '{"failed": ["not_found"], "processing": ["teleporting"]}'
    """
    whole = sorted({word for word in words if _is_whole(word)})
    if not whole:
        return ""
    found = _lists(current)
    for word in whole:
        found.setdefault(guess(word), []).append(word)
    return json.dumps(found, ensure_ascii=False)


def lines(
    unknown: Mapping[int, Sequence[str]], base: StatusWords, current: Mapping[int, str | None] | None = None
) -> list[str]:
    """All suggestions: for every channel at once, then for each alone.

    *unknown* has the words by channel, *current* the mappings that channels have already.
    """
    told = environment_lines((word for words in unknown.values() for word in words), base)
    for channel_id, words in sorted(unknown.items()):
        if text := mapping(words, (current or {}).get(channel_id)):
            told.append(f"channel {channel_id} alone: custompass_status_mapping = {text}")
    return told


def _is_whole(word: str) -> bool:
    return 0 < len(word) < _CUT_AT


def _lists(current: str | None) -> dict[str, list[Any]]:
    try:
        value = json.loads(current or "{}")
    except (ValueError, RecursionError):
        return {}
    if not isinstance(value, dict):
        return {}
    return {str(name): list(words) for name, words in value.items() if isinstance(words, list)}
