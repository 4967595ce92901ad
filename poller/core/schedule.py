"""When to do a thing again. Chance and the clock are arguments."""

from __future__ import annotations

from typing import Final

_DOUBLINGS: Final = 64


def backoff_s(attempt: int, first_s: float, last_s: float) -> float:
    """Seconds to wait before the next try, jitter excluded: *first_s*, doubled with each try, never over *last_s*.

    *attempt* counts the tries already made, from 1.

    >>> [backoff_s(n, 1.0, 15.0) for n in (1, 2, 3, 9, 10**9)]
    [1.0, 2.0, 4.0, 15.0, 15.0]
    """
    return min(last_s, first_s * 2.0 ** min(max(attempt, 1) - 1, _DOUBLINGS))


def jitter(value_s: float, chance: float) -> float:
    """*value_s* drawn down by *chance*, which is from 0 up to 1: from half of it to all of it, never more.

    >>> jitter(10.0, 0.0), jitter(10.0, 0.5)
    (5.0, 7.5)
    """
    return value_s * (0.5 + chance / 2)


def is_said(count: int) -> bool:
    """Whether the *count*-th failure in a row, from 1, is worth a line: at growing distance, at last every 64th.

    >>> [count for count in range(1, 200) if is_said(count)]
    [1, 2, 4, 8, 16, 32, 64, 128, 192]
    """
    return count & (count - 1) == 0 or count % 64 == 0


def next_pass_in_s(started_s: float | None, interval_s: float, now_s: float) -> float:
    """Seconds until a lane's next pass is due: an interval after the last one began, never under 0.

    *started_s* None: no pass yet, so now. A start that lies ahead (the clock was set back) costs one interval at most.

    >>> next_pass_in_s(100.0, 30.0, 110.0), next_pass_in_s(None, 30.0, 110.0), next_pass_in_s(9e9, 30.0, 110.0)
    (20.0, 0.0, 30.0)
    """
    if started_s is None:
        return 0.0
    return min(interval_s, max(0.0, started_s + interval_s - now_s))
