"""How many requests may be in flight: shared between lanes, adapted to each upstream, and never a storm of retries.

Pure: whoever waits for a slot waits elsewhere.
"""

from __future__ import annotations

import math
from typing import Final

_DECREASE: Final = 0.9
_RECENT: Final = 0.4
_DEVIATIONS: Final = 2.5
_SAME: Final = 0.05
"""Share of the usual round trip by which a slower one is still the same."""


class _Lane:
    __slots__ = ("has_timed_out", "in_use", "is_joined", "queued", "turn", "waiting")

    def __init__(self, turn: int) -> None:
        self.is_joined = True
        self.in_use = 0
        self.waiting = 0
        self.has_timed_out = False
        self.turn = turn
        """Round in which it is next served."""
        self.queued = 0
        """Its place among the lanes of one round."""


class Slots:
    """The slots of one replica, shared so that nobody can be starved.

    Every joined lane owns ``own`` slots that nobody can borrow; the rest is lent. Where several may start, they go
    round in turn, and within a round a lane whose last ask timed out comes after the healthy ones. With more lanes
    than slots each lane holds one at most, and lanes that timed out hold half of them at most, so that dead upstreams
    never hold them all.

    >>> slots = Slots(4)
    >>> for lane in (1, 2):
    ...     slots.join(lane)
    >>> for _ in range(3):
    ...     slots.want(1)
    >>> slots.grants(), slots.own
    ([1, 1], 2)
    """

    def __init__(self, limit: int) -> None:
        self._lanes: dict[int, _Lane] = {}
        self._waiting: dict[int, _Lane] = {}
        self._joined = 0
        self._in_use = 0
        self._turn = 0
        self._queued = 0
        self.resize(limit)

    @property
    def in_use(self) -> int:
        """Slots in use, over all lanes."""
        return self._in_use

    @property
    def own(self) -> int:
        """Slots that each joined lane owns."""
        return max(1, self._limit // max(1, self._joined))

    def resize(self, limit: int) -> None:
        """From now on there are *limit* slots; those in use beyond it run out. Raises ValueError under 1."""
        if limit < 1:
            raise ValueError("at least one slot is needed")
        self._limit = limit

    def join(self, lane: int) -> None:
        """Count *lane* among those with work; joining twice is once."""
        found = self._lanes.get(lane)
        if found is None:
            self._lanes[lane] = _Lane(self._turn)
        elif found.is_joined:
            return
        else:
            found.is_joined = True
        self._joined += 1

    def leave(self, lane: int) -> None:
        """Take *lane* out of the sharing and forget what it waits for; what it holds stays its own until released."""
        found = self._lanes.get(lane)
        if found is None or not found.is_joined:
            return
        found.is_joined = False
        found.waiting = 0
        self._waiting.pop(lane, None)
        self._joined -= 1
        if not found.in_use:
            del self._lanes[lane]

    def want(self, lane: int) -> None:
        """Queue one more ask of *lane*. Raises ValueError when it has not joined."""
        found = self._lanes.get(lane)
        if found is None or not found.is_joined:
            raise ValueError(f"lane {lane} has not joined")
        if not found.waiting:
            found.turn = max(found.turn, self._turn)
            self._queue(lane, found)
        found.waiting += 1

    def unwant(self, lane: int) -> None:
        """Take one waiting ask of *lane* back; nothing when none waits."""
        found = self._waiting.get(lane)
        if found is not None:
            self._shorten(lane, found)

    def release(self, lane: int, timed_out: bool) -> None:
        """Give back one slot of *lane*, saying how its ask went. Raises ValueError when it holds none."""
        found = self._lanes.get(lane)
        if found is None or not found.in_use:
            raise ValueError(f"lane {lane} holds no slot")
        found.in_use -= 1
        self._in_use -= 1
        found.has_timed_out = timed_out
        if not found.is_joined and not found.in_use:
            del self._lanes[lane]

    def grants(self) -> list[int]:
        """Lanes that may start an ask now, one entry an ask; their slots are in use from here on."""
        granted: list[int] = []
        while self._waiting and self._in_use < self._limit:
            lane = self._next()
            if lane is None:
                break
            found = self._lanes[lane]
            self._turn = max(self._turn, found.turn)
            found.turn += 1
            found.in_use += 1
            self._in_use += 1
            self._shorten(lane, found)
            if found.waiting:
                self._queue(lane, found)
            granted.append(lane)
        return granted

    def _next(self) -> int | None:
        own = self.own
        # What is neither in use nor kept back for lanes that hold fewer than their own; negative when crowded.
        spare = self._limit - sum(
            max(each.in_use, own) if each.is_joined else each.in_use for each in self._lanes.values()
        )
        may_time_out = self._joined <= self._limit or self._has_room_for_timed_out()
        best: tuple[bool, int, bool, int] | None = None
        chosen: int | None = None
        for lane, each in self._waiting.items():
            is_lent = each.in_use >= own
            if (is_lent and spare <= 0) or (each.has_timed_out and not may_time_out):
                continue
            place = (is_lent, each.turn, each.has_timed_out, each.queued)
            if best is None or place < best:
                best, chosen = place, lane
        return chosen

    def _has_room_for_timed_out(self) -> bool:
        timed_out = [each for each in self._lanes.values() if each.has_timed_out]
        is_anybody_healthy = any(each.is_joined and not each.has_timed_out for each in self._lanes.values())
        return not is_anybody_healthy or sum(each.in_use for each in timed_out) < max(1, self._limit // 2)

    def _queue(self, lane: int, found: _Lane) -> None:
        self._queued += 1
        found.queued = self._queued
        self._waiting[lane] = found

    def _shorten(self, lane: int, found: _Lane) -> None:
        found.waiting -= 1
        if not found.waiting:
            del self._waiting[lane]


class Adaptive:
    """One lane's own limit, by Vector's rules: a slot more when the limit was reached and answers came as fast as
    usual, a tenth less when upstream pushed back or its answers slowed down.

    It judges once a window, which is as many asks as the limit: about one round trip of a full lane. A push-back
    counts at once, and once a window.
    """

    def __init__(self, highest: int, *, initial: int = 4, lowest: int = 1) -> None:
        if not 1 <= lowest <= highest:
            raise ValueError("limits must be in order, from 1")
        self._highest = highest
        self._lowest = lowest
        self.limit = min(max(initial, lowest), highest)
        """Requests that may be in flight."""
        self._usual_s: float | None = None
        self._variance = 0.0
        self._open_window()

    def answered(self, rtt_s: float, was_limit_reached: bool) -> None:
        """Upstream answered one exchange after *rtt_s* seconds, retries and waiting left out; the limit was reached
        when it began, or not."""
        self._answers += 1
        self._sum_s += rtt_s
        self._was_reached |= was_limit_reached
        self._close_window()

    def pushed_back(self) -> None:
        """Upstream asked for less, or did not answer in time."""
        self._push_backs += 1
        if self._push_backs == 1:
            self._lower()
        self._close_window()

    def _open_window(self) -> None:
        self._answers = 0
        self._push_backs = 0
        self._sum_s = 0.0
        self._was_reached = False

    def _close_window(self) -> None:
        if self._answers + self._push_backs < self.limit:
            return
        if self._answers:
            rtt_s = self._sum_s / self._answers
            if self._usual_s is not None and not self._push_backs:
                self._judge(rtt_s, self._usual_s)
            self._learn(rtt_s)
        self._open_window()

    def _judge(self, rtt_s: float, usual_s: float) -> None:
        slack_s = max(_DEVIATIONS * math.sqrt(self._variance), _SAME * usual_s)
        if rtt_s > usual_s + slack_s:
            self._lower()
        elif self._was_reached and rtt_s <= usual_s * (1 + 1e-9):
            self.limit = min(self.limit + 1, self._highest)

    def _learn(self, rtt_s: float) -> None:
        if self._usual_s is None:
            self._usual_s = rtt_s
            return
        difference = rtt_s - self._usual_s
        step = _RECENT * difference
        self._usual_s += step
        self._variance = (1 - _RECENT) * (self._variance + difference * step)

    def _lower(self) -> None:
        self.limit = max(self._lowest, int(self.limit * _DECREASE))


class RetryBudget:
    """Retries of one lane, as a share of its requests: a few at any time, then *percent* of what was asked.

    >>> budget = RetryBudget(percent=20, floor=1)
    >>> budget.may_retry(), budget.may_retry()
    (True, False)
    """

    def __init__(self, *, percent: int = 20, floor: int = 3, saved: int = 20) -> None:
        self._percent = percent
        self._most = 100 * max(floor, saved)
        self._left = 100 * floor
        """In hundredths of a retry; never more than *saved* whole ones."""

    def request(self) -> None:
        """Count a request that is no retry."""
        self._left = min(self._left + self._percent, self._most)

    def may_retry(self) -> bool:
        """Whether one more retry is within the budget; a True is spent."""
        if self._left < 100:
            return False
        self._left -= 100
        return True
