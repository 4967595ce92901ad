"""A clock that leaps ahead makes nothing older than our own clock says it can be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from poller.core.clock import TOLERANCE_S, DatabaseClock

LIFETIME_S = 3600.0
leaps = st.lists(
    st.tuples(st.floats(0, 600), st.sampled_from([0.0, 0.0, 0.0, 7200.0, -7200.0, 310.0, 290.0, 86400.0])), max_size=60
)


@given(leaps)
def test_no_age_grows_faster_than_our_own_clock_until_the_new_time_has_lasted_a_lifetime(moves):
    clock, own_s, db_s = DatabaseClock(), 0.0, 1e9
    born_s, steady_since_s, slack_s = db_s, 0.0, 0.0
    clock.read(db_s, own_s, LIFETIME_S)
    for passed_s, leap_s in moves:
        own_s += passed_s
        db_s += passed_s + leap_s
        steady_since_s = own_s if leap_s else steady_since_s
        slack_s += leap_s if 0 < leap_s <= TOLERANCE_S else 0.0
        doubt_s = clock.read(db_s, own_s, LIFETIME_S)
        assert doubt_s >= 0
        assert clock.behind_s >= 0
        if own_s < LIFETIME_S:
            # A task as old as the process.
            assert db_s - doubt_s - born_s <= own_s + slack_s + TOLERANCE_S + 1e-3
        if own_s - steady_since_s >= LIFETIME_S + 600:
            assert doubt_s == 0


def test_a_clock_that_is_put_right_is_followed_and_one_that_goes_back_too():
    clock = DatabaseClock()
    assert clock.read(1000.0, 0.0, LIFETIME_S) == 0
    assert clock.read(1000.0 + 30 + 299, 30.0, LIFETIME_S) == 0
    assert clock.read(1000.0 - 7200, 60.0, LIFETIME_S) == 0
    assert clock.read(1000.0, 90.0, LIFETIME_S) > 7000


def test_a_clock_that_leaps_again_is_doubted_for_another_lifetime():
    clock = DatabaseClock()
    clock.read(0.0, 0.0, LIFETIME_S)
    assert clock.read(7200.0 + 10, 10.0, LIFETIME_S) == 7200
    assert clock.read(14400.0 + 3000, 3000.0, LIFETIME_S) == 14400
    assert clock.read(14400.0 + 3700, 3700.0, LIFETIME_S) == 14400
    assert clock.read(14400.0 + 6600, 6600.0, LIFETIME_S) == 0


def test_a_leap_that_is_taken_back_leaves_no_doubt():
    clock = DatabaseClock()
    clock.read(0.0, 0.0, LIFETIME_S)
    assert clock.read(7200.0 + 10, 10.0, LIFETIME_S) == 7200
    assert clock.read(20.0, 20.0, LIFETIME_S) == 0


def test_a_clock_that_is_ahead_of_our_own_when_we_begin_leapt_just_before():
    clock = DatabaseClock(offset_s=1e9)
    assert clock.read(1e9 + 7200, 0.0, LIFETIME_S) == 7200
    assert clock.read(1e9 + 7200 + LIFETIME_S - 1, LIFETIME_S - 1, LIFETIME_S) == 7200
    assert clock.read(1e9 + 7200 + LIFETIME_S, LIFETIME_S, LIFETIME_S) == 0
    assert clock.behind_s == 0


def test_a_clock_that_went_back_is_behind_by_as_much_whether_we_saw_it_or_not():
    clock = DatabaseClock(offset_s=1e9)
    assert (clock.read(1e9 - 86400, 0.0, LIFETIME_S), clock.behind_s) == (0.0, 86400.0)
    clock = DatabaseClock()
    clock.read(1e9, 0.0, LIFETIME_S)
    clock.read(1e9 - 86400, 0.0, LIFETIME_S)
    assert clock.behind_s == 86400
    for own_s in (0.0, LIFETIME_S):
        clock.read(1e9 + own_s, own_s, LIFETIME_S)
    assert (clock.doubt_s, clock.behind_s) == (0.0, 0.0)
