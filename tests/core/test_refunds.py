"""What one channel may give back for failed tasks within an hour."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from poller.core.decide import REFUND_REASONS, SETTLE_REASONS
from poller.core.model import Outcome, Settled, Settlement, Verdict
from poller.core.refunds import RefundLimit
from poller.postgres.statements import load_own
from tests.core.test_batches import task


def failure(pk: int, reserved: int = 450) -> Settlement:
    return Settlement(task(pk, reserved=reserved), Outcome.FAILURE, 0, rule="failed_word")


def success(pk: int, reserved: int = 450) -> Settlement:
    return Settlement(task(pk, reserved=reserved), Outcome.SUCCESS, 1, rule="success_word")


def pks(settlements: list[Settlement]) -> list[int]:
    return [each.task.pk for each in settlements]


def settled(each: Settlement, verdict: Verdict = Verdict.SETTLED, refunded: int = 450) -> Settled:
    return Settled(each.task, verdict, each.outcome, each.rule, refunded=refunded)


def test_without_a_limit_everything_is_admitted() -> None:
    limit = RefundLimit(None)
    assert pks(limit.admit([failure(pk, 10**12) for pk in range(9)])[0]) == list(range(9))


def test_the_refund_that_reaches_the_limit_goes_through_and_those_behind_it_wait() -> None:
    limit = RefundLimit(1000)
    limit.begin(100)
    admitted, waiting = limit.admit([failure(1), failure(2), failure(3), failure(4), success(5), failure(6, 0)])
    assert (pks(admitted), pks(waiting)) == ([1, 2, 5, 6], [3, 4])
    assert limit.given == 1000


def test_a_refund_larger_than_the_limit_does_not_wait_for_ever() -> None:
    limit = RefundLimit(1000)
    admitted, waiting = limit.admit([failure(1, 5000), failure(2, 1)])
    assert (pks(admitted), pks(waiting)) == ([1], [2])
    limit.begin(0)
    assert pks(limit.admit([failure(2, 1)])[0]) == [2]


def test_what_is_being_settled_beside_it_counts_and_what_came_of_it_corrects_that() -> None:
    limit = RefundLimit(900)
    first = failure(1)
    limit.admit([first, failure(2)])
    assert pks(limit.admit([failure(3)])[1]) == [3]
    for verdict, refunded, given_back in (
        (Verdict.SETTLED, 450, 450),
        (Verdict.SETTLED, 300, 300),
        (Verdict.LOCKED, 0, 0),
        (Verdict.REOPENED, 450, 0),
        (Verdict.ALREADY, 450, 0),
    ):
        limit.begin(0)
        limit.admit([first])
        limit.correct(first, settled(first, verdict, refunded))
        assert limit.given == given_back
    limit.begin(0)
    limit.admit([success(4)])
    limit.correct(success(4), settled(success(4), refunded=449))
    assert limit.given == 0


@given(
    st.integers(1, 5000),
    st.integers(0, 6000),
    st.lists(st.tuples(st.booleans(), st.integers(-5, 2000)), max_size=40),
)
def test_no_more_than_one_refund_goes_beyond_the_limit_and_nothing_is_lost(
    most: int, given_before: int, tasks: list[tuple[bool, int]]
) -> None:
    limit = RefundLimit(most)
    limit.begin(given_before)
    wishes = [(failure if fails else success)(pk, reserved) for pk, (fails, reserved) in enumerate(tasks)]
    admitted, waiting = limit.admit(wishes)
    assert sorted(pks(admitted) + pks(waiting)) == pks(wishes)
    refunds = [each.task.reserved for each in admitted if each.outcome is Outcome.FAILURE and each.task.reserved > 0]
    if refunds:
        assert given_before + sum(refunds[:-1]) < most
    assert all(each.outcome is Outcome.FAILURE and each.task.reserved > 0 for each in waiting)
    assert not waiting or limit.given >= most


def test_the_ledger_is_asked_for_the_rules_by_which_upstream_makes_refunds() -> None:
    rules = (SETTLE_REASONS - {"success_word"}) | REFUND_REASONS
    text = load_own().refunded.text
    assert all(f"'{rule}'" in text for rule in rules)
    assert text.count("'") == 2 * (len(rules) + 1)
