"""How far the database's clock may be from the truth, as far as deadlines go.

After a failover another machine tells the time. Were that hours ahead, young tasks would all be past their deadline at
once, and refunded while they still run. Going back only makes everything later, so that is followed; but what was
submitted before is not taken for a thing of the future.
"""

from __future__ import annotations

import math
from typing import Final

TOLERANCE_S: Final = 300.0
"""Clocks that are put right by less than this are believed at once."""


class DatabaseClock:
    """The database's clock as this process saw it move, measured by the process's own monotonic one.

    *offset_s*: how much more our wall clock says than our monotonic one. A database that is ahead of it at first is
    taken for one whose clock leapt just before we began.
    """

    def __init__(self, offset_s: float | None = None) -> None:
        self.doubt_s = 0.0
        """By how many seconds ages may come out too high."""
        self.behind_s = 0.0
        """By how many seconds they may come out too low."""
        self._offset_s = offset_s
        self._furthest_s = -math.inf if offset_s is None else offset_s
        self._claimed_s = 0.0
        self._since_s = 0.0

    def read(self, now_s: float, own_s: float, lifetime_s: float) -> float:
        """Take in that it was *now_s* by the database when our clock said *own_s*; the doubt from now on.

        A leap ahead is believed once the clock has gone on steadily for *lifetime_s*: what was submitted before the
        leap has reached its deadline by then.

        >>> clock = DatabaseClock()
        >>> [clock.read(1000 + s, s, 3600) for s in (0, 30, 60)]
        [0.0, 0.0, 0.0]
        >>> [clock.read(8200 + s, s, 3600) for s in (90.0, 3600.0, 3690.0)]
        [7200.0, 7200.0, 0.0]
        """
        offset_s = now_s - own_s
        ahead_s = 0.0 if self._offset_s is None else offset_s - self._offset_s
        if ahead_s > TOLERANCE_S:
            if not self.doubt_s or abs(offset_s - self._claimed_s) > TOLERANCE_S:
                self._claimed_s, self._since_s = offset_s, own_s
            if own_s - self._since_s < lifetime_s:
                self.doubt_s = ahead_s
                return ahead_s
        self._offset_s, self.doubt_s = offset_s, 0.0
        self._furthest_s = max(self._furthest_s, offset_s)
        self.behind_s = self._furthest_s - offset_s
        return 0.0
