"""When to do a thing again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from poller.core.schedule import backoff_s, jitter, next_pass_in_s

SECONDS = st.floats(0.001, 1e4)


@given(st.integers(-5, 10**12), SECONDS, SECONDS)
def test_backoff_grows_from_the_first_delay_and_never_over_the_last(
    attempt: int, first_s: float, last_s: float
) -> None:
    delay_s = backoff_s(attempt, first_s, last_s)
    assert min(first_s, last_s) <= delay_s <= last_s
    assert backoff_s(attempt + 1, first_s, last_s) >= delay_s


@given(SECONDS, st.floats(0, 1, exclude_max=True))
def test_jitter_stays_between_half_and_all(value_s: float, chance: float) -> None:
    assert value_s / 2 <= jitter(value_s, chance) <= value_s


@given(st.none() | st.floats(0, 2e9), SECONDS, st.floats(0, 2e9))
def test_the_next_pass_is_never_overdue_and_never_more_than_an_interval_away(
    started_s: float | None, interval_s: float, now_s: float
) -> None:
    assert 0 <= next_pass_in_s(started_s, interval_s, now_s) <= interval_s
