"""The loosely typed fields of an item, read where that is harmless and refused where it is money. Pure."""

from __future__ import annotations

import re
from calendar import timegm
from collections.abc import Iterable
from math import isfinite
from typing import Final

from poller.core.model import Usage

PROGRESS_LIMIT: Final = 32
"""Characters kept of a progress; the column of the gateway holds 20."""

_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(\.\d{1,9})?(?:[Zz]|([+-]\d\d):?(\d\d))", re.ASCII
)
_COUNT_LIMIT: Final = 2**63
# Epoch seconds and milliseconds of the years 2001 to 2286 do not overlap.
_EARLIEST_S: Final = 1e9
_LATEST_S: Final = 1e10


def progress_text(value: object) -> str:
    """The progress as text; a bare number gets its percent sign. Empty for anything that is neither text nor number.

    >>> [progress_text(said) for said in (50, 12.5, "50", "50%", "half", None, True)]
    ['50%', '12.5%', '50%', '50%', 'half', '', '']
    """
    if type(value) is str:
        if value.endswith("%") and len(value) <= PROGRESS_LIMIT:
            return value
        text = value if len(value) <= PROGRESS_LIMIT else value[:PROGRESS_LIMIT]
        return f"{text}%" if text.isdecimal() and text.isascii() else text
    if type(value) is int or (type(value) is float and isfinite(value)):
        return f"{value}%"[:PROGRESS_LIMIT]
    return ""


def usage_of(told: object) -> tuple[Usage | None, bool]:
    """The token counts of a ``usage`` object, and whether they were there but unusable.

    A count is a whole number from 0 to 2**63 - 1; ``2.0`` is one, ``true`` and ``"2"`` are not. One bad count makes all
    of them unusable: a bill is not made from the half that could be read.
    """
    if not isinstance(told, dict):
        return None, True
    try:
        usage = Usage(
            _count(told.get("prompt_tokens")),
            _count(told.get("completion_tokens")),
            _count(told.get("total_tokens")),
            _count(told.get("input_tokens")),
            _count(told.get("output_tokens")),
        )
    except (ValueError, OverflowError):
        return None, True
    return usage, False


def _count(value: object) -> int | None:
    if value is None:
        return None
    if type(value) is float and value == int(value):  # int() of an infinity is an OverflowError
        value = int(value)
    if type(value) is not int or not 0 <= value < _COUNT_LIMIT:
        raise ValueError
    return value


def finished_s(values: Iterable[object]) -> float | None:
    """Epoch seconds from the first of *values* that is a moment: epoch seconds or milliseconds, or RFC 3339 with zone.

    None when there is none: a time without a zone could be hours off, and nothing but a delay is measured with it.
    """
    for value in values:
        moment_s = _moment_s(value)
        if moment_s is not None:
            return moment_s
    return None


def _moment_s(value: object) -> float | None:
    try:
        if isinstance(value, str):
            if not value.isdecimal():
                return _rfc3339_s(value)
            value = int(value)
        if type(value) is not int and type(value) is not float:
            return None
        number = float(value)
    except (ValueError, OverflowError):
        return None
    seconds = number if number < _LATEST_S else number / 1000
    return seconds if _EARLIEST_S <= seconds < _LATEST_S else None


def _rfc3339_s(text: str) -> float | None:
    """Epoch seconds, or None for what is no time with a zone. Raises ValueError for a month that there is not."""
    found = _RFC3339.fullmatch(text)
    if found is None:
        return None
    *moment, fraction, zone_hours, zone_minutes = found.groups()
    zone_s = 0
    if zone_hours:
        zone_s = abs(int(zone_hours)) * 3600 + int(zone_minutes) * 60
        zone_s = -zone_s if zone_hours.startswith("-") else zone_s
    return timegm(tuple(map(int, moment))) + float(fraction or 0) - zone_s
