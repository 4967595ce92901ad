"""Slots, adaptive limits and retry budgets over simulated time."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from poller.core.concurrency import Adaptive, RetryBudget, Slots

LANES = st.integers(0, 7)


class SlotsAgainstBooks(RuleBasedStateMachine):
    """Slots driven at will, against plain counts of what was wanted, granted and released."""

    def __init__(self) -> None:
        super().__init__()
        self.limit = 5
        self.slots = Slots(5)
        self.joined: set[int] = set()
        self.waiting: Counter[int] = Counter()
        self.in_use: Counter[int] = Counter()
        self.is_settled = True
        """Nobody joined, left or resized while slots were in use: every lane's own slots must be there for it."""

    def unsettle(self) -> None:
        self.is_settled = not self.in_use.total()

    @rule(lane=LANES)
    def join(self, lane: int) -> None:
        self.slots.join(lane)
        self.joined.add(lane)
        self.unsettle()

    @rule(lane=LANES)
    def leave(self, lane: int) -> None:
        self.slots.leave(lane)
        self.joined.discard(lane)
        del self.waiting[lane]
        self.unsettle()

    @rule(limit=st.integers(1, 9))
    def resize(self, limit: int) -> None:
        self.slots.resize(limit)
        self.limit = limit
        self.unsettle()

    @rule(lane=LANES, count=st.integers(1, 4))
    def want(self, lane: int, count: int) -> None:
        for _ in range(count):
            if lane in self.joined:
                self.slots.want(lane)
                self.waiting[lane] += 1
            else:
                with pytest.raises(ValueError, match="has not joined"):
                    self.slots.want(lane)

    @rule(lane=LANES)
    def unwant(self, lane: int) -> None:
        self.slots.unwant(lane)
        self.waiting[lane] = max(0, self.waiting[lane] - 1)

    @rule(lane=LANES, timed_out=st.booleans())
    def release(self, lane: int, timed_out: bool) -> None:
        if self.in_use[lane]:
            self.slots.release(lane, timed_out)
            self.in_use[lane] -= 1
        else:
            with pytest.raises(ValueError, match="holds no slot"):
                self.slots.release(lane, timed_out)

    @rule()
    def grant(self) -> None:
        before = self.in_use.total()
        for lane in self.slots.grants():
            assert self.waiting[lane], "granted to a lane that waits for nothing"
            self.waiting[lane] -= 1
            self.in_use[lane] += 1
        assert self.in_use.total() <= max(self.limit, before)
        own = max(1, self.limit // max(1, len(self.joined)))
        if self.is_settled and len(self.joined) <= self.limit:
            for lane in self.joined:
                assert not self.waiting[lane] or self.in_use[lane] >= own, "an own slot was not to be had"

    @precondition(lambda self: not self.in_use.total())
    @rule()
    def somebody_is_served_when_nothing_is_in_use(self) -> None:
        wanted = self.waiting.total()
        self.grant()
        assert bool(self.in_use.total()) == bool(wanted)

    @rule()
    def everything_wanted_is_granted_in_the_end(self) -> None:
        for _ in range(self.waiting.total() + self.in_use.total() + 1):
            self.grant()
            for lane in list(self.in_use.elements()):
                self.release(lane, timed_out=lane % 2 == 0)
        assert not self.waiting.total()
        assert not self.in_use.total()

    @invariant()
    def books_agree(self) -> None:
        assert self.slots.in_use == self.in_use.total()


TestSlotsAgainstBooks = SlotsAgainstBooks.TestCase
TestSlotsAgainstBooks.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def filled(limit: int, lanes: int, wanted: int) -> Slots:
    slots = Slots(limit)
    for lane in range(lanes):
        slots.join(lane)
    for lane in range(lanes):
        for _ in range(wanted):
            slots.want(lane)
    return slots


@given(st.integers(1, 40), st.integers(1, 40))
def test_all_slots_are_in_use_when_every_lane_wants_more_than_there_is(limit: int, lanes: int) -> None:
    granted = Counter(filled(limit, lanes, limit).grants())
    assert granted.total() == limit
    if lanes <= limit:
        assert min(granted.values()) >= limit // lanes
        assert len(granted) == lanes
    else:
        assert set(granted.values()) == {1}


def test_own_slots_of_an_idle_lane_are_kept_for_it() -> None:
    slots = filled(10, 3, 0)
    for _ in range(99):
        slots.want(0)
    assert slots.grants() == [0] * 4  # three of its own and the one that is lent
    slots.want(1)
    assert slots.grants() == [1]


def test_a_lane_alone_has_everything_until_another_joins() -> None:
    slots = filled(4, 1, 9)
    assert slots.grants() == [0] * 4
    slots.join(1)
    slots.want(1)
    assert slots.grants() == []
    slots.release(0, timed_out=False)
    assert slots.grants() == [1]


def test_with_more_lanes_than_slots_they_go_round_in_turn() -> None:
    slots = filled(2, 5, 3)
    order: list[int] = []
    while running := slots.grants():
        order += running
        for lane in running:
            slots.release(lane, timed_out=False)
    assert order == [0, 1, 2, 3, 4] * 3


def test_a_lane_whose_last_ask_timed_out_comes_after_the_healthy_ones() -> None:
    slots = filled(1, 3, 2)
    order: list[int] = []
    while running := slots.grants():
        order += running
        slots.release(running[0], timed_out=running[0] == 0)
    assert order == [0, 1, 2, 1, 2, 0]


def test_lanes_that_time_out_hold_half_of_the_slots_at_most_when_crowded() -> None:
    slots = filled(4, 6, 1)
    for lane in slots.grants():
        slots.release(lane, timed_out=True)
    for lane in (0, 1, 2, 3):
        slots.want(lane)
    granted = slots.grants()
    assert sorted(granted) == [0, 1, 4, 5]
    slots.release(4, timed_out=False)
    assert slots.grants() == []
    slots.leave(4)
    slots.leave(5)
    slots.release(5, timed_out=False)
    assert slots.grants() == [2, 3]


def test_a_slot_needs_at_least_one() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Slots(0)


class Ask(NamedTuple):
    ends_s: float
    number: int
    lane: int


def waits_of(healthy: int, hanging: int, limit: int, seconds: float) -> dict[int, float]:
    """The longest wait for a slot of each healthy lane; those answer in 0.1 s, the hanging ones in 15 s."""
    slots = Slots(limit)
    since: dict[int, float] = {}
    for lane in range(healthy + hanging):
        slots.join(lane)
        slots.want(lane)
        since[lane] = 0.0
    longest: dict[int, float] = dict.fromkeys(range(healthy), 0.0)
    running: list[Ask] = []
    now_s, number = 0.0, 0
    while now_s < seconds:
        for lane in slots.grants():
            number += 1
            heapq.heappush(running, Ask(now_s + (0.1 if lane < healthy else 15.0), number, lane))
            if lane < healthy:
                longest[lane] = max(longest[lane], now_s - since[lane])
        now_s, _, lane = heapq.heappop(running)
        slots.release(lane, timed_out=lane >= healthy)
        slots.want(lane)
        since[lane] = now_s
    for lane in range(healthy):
        longest[lane] = max(longest[lane], now_s - since[lane])
    return longest


def test_hanging_lanes_do_not_hold_up_the_healthy_ones_where_there_are_slots_for_all() -> None:
    assert max(waits_of(15, 5, 100, 120.0).values()) <= 0.1


def test_hanging_lanes_hold_up_the_healthy_ones_for_one_time_out_at_most_when_crowded() -> None:
    waits = waits_of(20, 20, 8, 200.0)
    assert max(waits.values()) < 40.0


# -- adaptive ---------------------------------------------------------------------------------------------------------


def window(adaptive: Adaptive, rtt_s: float, was_limit_reached: bool = True) -> None:
    for _ in range(adaptive.limit):
        adaptive.answered(rtt_s, was_limit_reached)


def test_the_limit_rises_by_one_a_window_only_while_it_is_reached() -> None:
    adaptive = Adaptive(8, initial=2)
    window(adaptive, 0.1)
    limits = []
    for _ in range(10):
        window(adaptive, 0.1)
        limits.append(adaptive.limit)
    assert limits == [3, 4, 5, 6, 7, 8, 8, 8, 8, 8]
    idle = Adaptive(8, initial=2)
    for _ in range(10):
        window(idle, 0.1, was_limit_reached=False)
    assert idle.limit == 2


def test_a_push_back_lowers_the_limit_at_once_and_once_a_window() -> None:
    adaptive = Adaptive(100, initial=100)
    for _ in range(90):
        adaptive.pushed_back()
    assert adaptive.limit == 90
    adaptive.pushed_back()
    assert adaptive.limit == 81


def test_push_backs_lower_it_to_the_lowest_and_no_further() -> None:
    adaptive = Adaptive(10, initial=10, lowest=2)
    for _ in range(200):
        adaptive.pushed_back()
    assert adaptive.limit == 2


def test_rising_latency_lowers_the_limit() -> None:
    adaptive = Adaptive(50, initial=20)
    for _ in range(5):
        window(adaptive, 0.1, was_limit_reached=False)
    window(adaptive, 0.3)
    assert adaptive.limit == 18


def test_a_window_with_a_push_back_does_not_raise_the_limit() -> None:
    adaptive = Adaptive(50, initial=10)
    window(adaptive, 0.1)
    adaptive.pushed_back()
    lowered = adaptive.limit
    for _ in range(lowered - 1):
        adaptive.answered(0.1, True)
    assert adaptive.limit == lowered


def test_it_finds_what_an_upstream_can_do_at_once() -> None:
    """An upstream that serves 16 at a time and queues the rest: answers slow down beyond, and the limit stays near."""
    adaptive, chance = Adaptive(200), random.Random(7)
    seen = []
    for _ in range(400):
        load = adaptive.limit
        for _ in range(load):
            adaptive.answered(0.1 * max(1.0, load / 16) * chance.uniform(0.97, 1.03), True)
        seen.append(adaptive.limit)
    late = sorted(seen[100:])
    assert 8 <= late[len(late) // 2] <= 40


@given(
    st.integers(1, 50),
    st.lists(st.one_of(st.none(), st.tuples(st.floats(0, 30), st.booleans())), max_size=300),
)
def test_the_limit_never_leaves_its_bounds(highest: int, events: list[tuple[float, bool] | None]) -> None:
    adaptive = Adaptive(highest)
    for event in events:
        before = adaptive.limit
        if event is None:
            adaptive.pushed_back()
            assert adaptive.limit <= before
        else:
            adaptive.answered(*event)
            assert adaptive.limit <= before + 1
        assert 1 <= adaptive.limit <= highest


def test_limits_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="in order"):
        Adaptive(0)


# -- retry budget -----------------------------------------------------------------------------------------------------


@given(st.lists(st.booleans(), max_size=300))
def test_retries_never_exceed_their_share_of_the_requests_and_a_few(steps: list[bool]) -> None:
    budget, requests, retries = RetryBudget(), 0, 0
    for is_retry in steps:
        if is_retry:
            retries += budget.may_retry()
        else:
            budget.request()
            requests += 1
        assert retries <= 3 + 0.2 * requests


def test_a_long_calm_saves_up_a_bounded_number_of_retries() -> None:
    budget = RetryBudget()
    for _ in range(10_000):
        budget.request()
    assert sum(budget.may_retry() for _ in range(100)) == 20
