"""The keys of one channel during one pass."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from poller.core.keys import KeyRing, digest_of, is_unknown, weaker
from poller.core.model import ABSENT, NO_ANSWER, UNPROVEN, Kind, Report, Secret
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
