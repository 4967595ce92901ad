"""The keys of one channel during one pass."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from poller.core.keys import KeyRing, LastPass, digest_of, is_search_due, is_unknown, seen_keys, weaker
from poller.core.model import ABSENT, NO_ANSWER, UNPROVEN, Kind, Policy, Report, Secret
from poller.core.words import DEFAULT_WORDS
from tests.core.test_batches import KEYS, task

NOT_FOUND = Report(Kind.SAID, "not_found")
PROCESSING = Report(Kind.SAID, "processing")


def test_the_first_key_is_asked_first_and_the_others_in_turn() -> None:
    ring = KeyRing(KEYS)
    assert ring.first(task(1)) == KEYS[0]
    assert [ring.next(KEYS[:count]) for count in range(4)] == [*KEYS, None]


def test_the_key_that_answered_is_asked_first_the_next_time() -> None:
    assert KeyRing(KEYS).first(task(1, key_digest=digest_of(KEYS[2]))) == KEYS[2]


def test_a_key_saved_with_the_task_comes_before_all() -> None:
    saved = Secret("saved")
    assert KeyRing(KEYS).first(task(1, key=saved, key_digest=digest_of(KEYS[2]))) == saved


def test_a_remembered_key_that_was_switched_off_is_forgotten() -> None:
    assert KeyRing(KEYS[:2]).first(task(1, key_digest=digest_of(KEYS[2]))) == KEYS[0]


def test_a_refused_key_is_left_alone_for_the_pass() -> None:
    ring = KeyRing(KEYS)
    ring.refuse(KEYS[0])
    ring.refuse(KEYS[2])
    assert ring.first(task(1)) == ring.first(task(1, key_digest=digest_of(KEYS[2]))) == KEYS[1]
    assert ring.next([KEYS[1]]) is None


def test_only_what_is_new_is_learnt() -> None:
    ring = KeyRing(KEYS)
    second = digest_of(KEYS[1])
    assert ring.lesson(task(1), KEYS[0]) is None
    assert ring.lesson(task(1), KEYS[1]) == second
    assert ring.lesson(task(1, key_digest=second), KEYS[1]) is None
    assert ring.lesson(task(1, key_digest=second), KEYS[0]) == digest_of(KEYS[0])
    assert ring.lesson(task(1, key=KEYS[1]), KEYS[1]) is None


def test_digests_do_not_hold_the_key() -> None:
    assert len({digest_of(key) for key in KEYS}) == 3
    assert all(key.reveal() not in digest_of(key) for key in KEYS)


def test_a_single_key_is_not_even_hashed() -> None:
    ring = KeyRing(KEYS[:1])
    assert (ring.is_multi, ring.first(task(1)), ring._known) == (False, KEYS[0], {})


@given(st.permutations([NO_ANSWER, UNPROVEN, ABSENT, NOT_FOUND]))
def test_all_keys_together_prove_no_more_than_the_weakest(reports: list[Report]) -> None:
    for count in range(1, 5):
        merged = reports[0]
        for report in reports[1:count]:
            merged = weaker(merged, report)
        order = [NO_ANSWER, UNPROVEN, ABSENT, NOT_FOUND]
        assert merged == min(reports[:count], key=order.index)


def test_what_another_key_may_know_better() -> None:
    assert all(is_unknown(report) for report in (NO_ANSWER, UNPROVEN, ABSENT, NOT_FOUND))
    known = [PROCESSING, *(Report(kind) for kind in (Kind.UNREADABLE, Kind.CONTRADICTION))]
    assert not any(is_unknown(report) for report in known)


def test_no_order_of_refusals_asks_a_key_twice() -> None:
    for refused in itertools.permutations(KEYS, 2):
        ring, asked = KeyRing(KEYS), []
        while (key := ring.next(asked)) is not None:
            asked.append(key)
            if key in refused:
                ring.refuse(key)
        assert asked == list(KEYS)


def test_every_key_has_its_turn() -> None:
    ring = KeyRing(KEYS)
    assert [ring.turn(number, KEYS[:1]) for number in range(4)] == [KEYS[1], KEYS[1], KEYS[2], KEYS[1]]
    ring.refuse(KEYS[1])
    assert ring.turn(1, KEYS[:1]) == KEYS[2]
    assert ring.turn(1, KEYS) is None


# -- how often all keys are asked ------------------------------------------------------------------------------------

POLICY = Policy(DEFAULT_WORDS, 30.0, 3600.0, True, 3, 300.0)
SUBMITTED_S = 1_000_000.0


def searches(key_count: int, starts_s: list[float], *, submitted_s: float = SUBMITTED_S) -> list[float]:
    """Ages at which all of *key_count* keys are asked about a task that none of them knows, on passes at *starts_s*."""
    keys = tuple(Secret(f"key-{number}") for number in range(key_count))
    one = task(1, submitted_s=submitted_s)
    found = []
    last = LastPass(0, starts_s[0] - 30.0, 0, keys, len(keys))
    for number, began_s in enumerate(starts_s):
        if is_search_due(one, began_s, POLICY, last):
            found.append(began_s - submitted_s)
        last = LastPass(number, began_s, 1, keys, len(keys))
    return found


def test_up_to_four_keys_are_all_asked_on_every_pass() -> None:
    starts = [SUBMITTED_S + 5 + 29.9 * number for number in range(200)]
    assert all(len(searches(count, starts)) == 200 for count in range(2, 5))


def test_a_search_in_vain_is_repeated_ever_more_rarely_and_from_the_deadline_on_again() -> None:
    starts = [SUBMITTED_S + 10 + 30 * number for number in range(200)]
    ages = [(age - 10) / 30 for age in searches(50, starts)]
    assert ages[:7] == [0, 1, 2, 4, 8, 13, 26]
    assert [age for age in ages if age >= 120][:6] == [120, 121, 122, 124, 128, 133]


@given(
    st.integers(5, 200),
    st.lists(st.floats(1.0, 300.0), min_size=300, max_size=300),
    st.floats(-90_000.0, 90_000.0),
)
def test_whatever_the_pace_searches_are_bounded_and_none_is_put_off_for_long(
    key_count: int, waits_s: list[float], ahead_s: float
) -> None:
    starts = list(itertools.accumulate(waits_s, initial=SUBMITTED_S + 10))
    submitted_s = SUBMITTED_S + ahead_s
    ages = searches(key_count, starts, submitted_s=submitted_s)
    gap_s = 30.0 * -(-key_count // 4)
    lasted_s = starts[-1] - starts[0]
    assert len(ages) <= lasted_s / gap_s + 2 * 9 + 3
    assert ages[0] == starts[0] - submitted_s
    # From one search to the next: at most a gap and the pass on which it falls, and what the deadline cuts in two.
    assert all(later - earlier <= 2 * gap_s + 300 for earlier, later in itertools.pairwise(ages))
    past = [start - submitted_s for start in starts if start - submitted_s >= POLICY.lifetime_s]
    assert not past or past[0] in ages


def test_keys_that_are_disabled_by_now_make_no_search_rarer() -> None:
    keys = tuple(Secret(f"key-{number}") for number in range(3))
    former = LastPass(0, 0.0, 1000, tuple(Secret(f"old-{number}") for number in range(200)), 3)
    seen = seen_keys(keys, former)
    assert seen[:3] == keys
    assert len(seen) == 3 + 100
    last = LastPass(1, 30.0, 1000, seen, 3)
    assert all(is_search_due(task(1), 60.0 + 30.0 * number, POLICY, last) for number in range(50))
