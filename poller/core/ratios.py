"""Numbers of the price tables: read from text as decimals, checked, multiplied without loss, made whole once."""

from __future__ import annotations

import json
from decimal import ROUND_DOWN, Context, Decimal
from typing import Any, Final

LIMIT: Final = 2**63
"""Amounts from here on fit no quota column."""

_LARGEST_CHARGE: Final = 2**31 - 1

_EXACT: Final = Context(prec=300, rounding=ROUND_DOWN, traps=[])
"""Wide enough for any product of a price formula: nothing is rounded before the end, and nothing raises."""
_MATCHED_NAMES: Final = (
    ("gpt-4-gizmo", "", "gpt-4-gizmo-*"),
    ("gpt-4o-gizmo", "", "gpt-4o-gizmo-*"),
    ("gemini-2.5-flash-lite", "-thinking-", "gemini-2.5-flash-lite-thinking-*"),
    ("gemini-2.5-flash", "-thinking-", "gemini-2.5-flash-thinking-*"),
    ("gemini-2.5-pro", "-thinking-", "gemini-2.5-pro-thinking-*"),
)
"""Prefix, what else must be inside, and the name that the gateway looks up instead."""
_LARGEST_EXPONENT: Final = 17
_SMALLEST_EXPONENT: Final = -40


def read_object(text: str) -> dict[str, Any] | None:
    """*text* as a JSON object whose numbers are decimals, empty where it says nothing; None when it is something else.

    >>> read_object('{"a": 0.10}'), read_object(""), read_object("[1]")
    ({'a': Decimal('0.10')}, {}, None)
    """
    if not text.strip():
        return {}
    try:
        value = json.loads(text, parse_float=_number, parse_int=_number, parse_constant=_number)
    except (ValueError, RecursionError):
        return None
    if value is None:
        return {}
    return value if isinstance(value, dict) else None


def read_ratio(text: str) -> Decimal | None:
    """A number column's text as a ratio; None when it is not usable.

    >>> read_ratio(" 0.90 "), read_ratio("NaN"), read_ratio("-1")
    (Decimal('0.90'), None, None)
    """
    return usable(_number(text.strip()))


def usable(value: object) -> Decimal | None:
    """*value* when it can be multiplied with: a decimal that is finite, not negative and of a sane size; else None."""
    if not isinstance(value, Decimal) or not value.is_finite() or value < 0:
        return None
    if not value:
        return Decimal(0)
    exponent = value.as_tuple().exponent
    is_sane = isinstance(exponent, int) and exponent >= _SMALLEST_EXPONENT and value.adjusted() <= _LARGEST_EXPONENT
    return value if is_sane else None


def product(*factors: Decimal | int) -> Decimal:
    """All *factors* multiplied; not finite when it goes beyond all bounds."""
    result = Decimal(1)
    for factor in factors:
        result = _EXACT.multiply(result, Decimal(factor))
    return result


def total(first: Decimal, second: Decimal) -> Decimal:
    """The two added."""
    return _EXACT.add(first, second)


def is_plausible(charged: int, reserved: int) -> bool:
    """Whether a task may cost this much without a person having looked: what no gateway would charge is a lie of usage.

    The limit is the largest amount that the gateways themselves compute (2**31 - 1, about 4 300 USD), or twice what was
    reserved, whichever is more.

    >>> is_plausible(2**31 - 1, 450), is_plausible(2**31, 450), is_plausible(2**60, 2**60)
    (True, False, True)
    """
    return charged <= max(_LARGEST_CHARGE, 2 * reserved)


def whole(amount: Decimal, rounding: str) -> int | None:
    """*amount* as quota, rounded once as *rounding* says; None when it fits no quota column.

    >>> from decimal import ROUND_HALF_UP
    >>> whole(Decimal("40.5"), ROUND_HALF_UP), whole(Decimal("40.5"), ROUND_DOWN), whole(Decimal(2**63), ROUND_DOWN)
    (41, 40, None)
    """
    if not amount.is_finite() or amount < 0 or amount >= LIMIT:
        return None
    rounded = int(amount.to_integral_value(rounding=rounding, context=_EXACT))
    return rounded if rounded < LIMIT else None


def matching(model: str) -> str:
    """The name under which the gateway looks *model* up in its ratio maps.

    >>> matching("gpt-4-gizmo-abc"), matching("m/submit")
    ('gpt-4-gizmo-*', 'm/submit')
    """
    for prefix, part, name in _MATCHED_NAMES:
        if model.startswith(prefix) and part in model:
            return name
    return model


def _number(text: str) -> Decimal:
    try:
        return Decimal(text)
    except ArithmeticError:
        return Decimal("NaN")
