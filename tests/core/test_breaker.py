"""The breaker over simulated time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from poller.core.breaker import FIRST_DELAY_S, LAST_DELAY_S, OPENS_AFTER, Breaker


def opened(now_s: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(OPENS_AFTER):
        breaker = breaker.failed(now_s)
    return breaker


def test_it_opens_at_the_fifth_failure_in_a_row_and_not_before() -> None:
    breaker = Breaker()
    for _ in range(OPENS_AFTER - 1):
        breaker = breaker.failed(0)
        assert breaker.state == "closed"
        assert breaker.may_ask(0)
    breaker = breaker.succeeded()
    for _ in range(OPENS_AFTER - 1):
        breaker = breaker.failed(0)
    assert breaker.state == "closed"
    assert breaker.failed(0).state == "open"


def test_the_wait_doubles_from_five_seconds_to_thirty() -> None:
    breaker, now_s, waits = opened(), 0.0, []
    for _ in range(6):
        waits.append(breaker.open_until_s - now_s)
        assert breaker.delay_s == waits[-1]
        assert not breaker.may_ask(breaker.open_until_s - 0.001)
        now_s = breaker.open_until_s
        assert breaker.may_ask(now_s)
        breaker = breaker.probing().failed(now_s)
    assert waits == [5.0, 10.0, 20.0, 30.0, 30.0, 30.0]


def test_half_open_lets_nobody_but_the_probe_through() -> None:
    probing = opened().probing()
    assert probing.state == "half_open"
    assert not probing.may_ask(1e9)
    assert not probing.may_ask(1e9, is_triggered=True)
    assert probing.succeeded() == Breaker()


def test_a_trigger_may_probe_early() -> None:
    assert not opened().may_ask(1.0)
    assert opened().may_ask(1.0, is_triggered=True)


def test_asks_that_were_under_way_when_it_opened_do_not_lengthen_the_wait() -> None:
    breaker = opened()
    for _ in range(100):
        breaker = breaker.failed(1.0)
    assert breaker == opened()


def test_a_failure_after_the_wait_opens_it_again_even_without_word_of_a_probe() -> None:
    assert opened().failed(FIRST_DELAY_S).open_until_s == FIRST_DELAY_S + 10.0


def test_a_breaker_is_taken_over_as_its_row_says() -> None:
    breaker = Breaker.restored(7, 50.0)
    assert (breaker.state, breaker.failures, breaker.may_ask(49.0), breaker.may_ask(50.0)) == ("open", 7, False, True)
    assert Breaker.restored(0, 50.0).failures == OPENS_AFTER


def test_probing_a_closed_breaker_changes_nothing() -> None:
    assert Breaker().failed(0).probing() == Breaker().failed(0)


@given(st.lists(st.tuples(st.sampled_from(["failed", "succeeded", "ask"]), st.floats(0, 40)), max_size=60))
def test_over_any_time_it_is_never_shut_for_longer_than_the_last_delay(steps: list[tuple[str, float]]) -> None:
    breaker, now_s = Breaker(), 0.0
    for step, passed_s in steps:
        now_s += passed_s
        if step == "failed":
            breaker = breaker.failed(now_s)
        elif step == "succeeded":
            breaker = breaker.succeeded()
            assert breaker.may_ask(now_s)
        elif breaker.may_ask(now_s):
            breaker = breaker.probing()
        assert (breaker.state == "closed") == (breaker.failures < OPENS_AFTER)
        if breaker.state == "open":
            assert breaker.may_ask(now_s + LAST_DELAY_S)
            assert 0 < breaker.delay_s <= LAST_DELAY_S
