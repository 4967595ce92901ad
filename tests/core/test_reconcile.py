"""Refunds weighed against tasks that look alike: what is certain is said, and the rest is counted right."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from poller.core.model import Outcome, State
from poller.core.reconcile import (
    Candidate,
    Class,
    Weighing,
    place_of_refund,
    place_of_task,
    settlement_of,
)


def task(pk: int, at_us: int, **more: object) -> Candidate:
    values: dict[str, object] = {
        "task_id": "t",
        "user_id": 1,
        "channel_id": 1,
        "model": "m",
        "outcome": Outcome.FAILURE,
        "reserved": 450,
        "charged": 0,
        "fail_reason": "",
        "doubt": "",
    }
    return Candidate(pk=pk, at_us=at_us, **(values | more))  # type: ignore[arg-type]


def weighed(tasks: list[int], refunds: list[int], settled: list[int] = (), user: int = 1) -> dict[int, Class]:
    """The class of each task by its time; None where a refund is its own."""
    events = [(place_of_refund(user, "k", at), None) for at in refunds]
    events += [(place_of_task(user, "k", at, False), None) for at in settled]
    events += [(place_of_task(user, "k", at, True), task(pk, at)) for pk, at in enumerate(tasks)]
    weighing, found = Weighing(), {}
    for place, candidate in sorted(events, key=lambda event: event[0]):
        if candidate is not None:
            finding = weighing.task(place, candidate)
            found[candidate.pk] = finding.kind if finding else None
        elif place[3] == 0:
            weighing.refund(place)
        else:
            weighing.settlement(place)
    return found


def most_pairs(tasks: list[int], refunds: list[int]) -> int:
    """How many tasks can have a refund of their own that is not older than they are."""
    free, count = sorted(refunds), 0
    for at in sorted(tasks, reverse=True):
        later = [each for each in free if each >= at]
        if later:
            free.remove(later[-1])
            count += 1
    return count


times = st.lists(st.integers(1, 12), max_size=8)


@given(times, times)
def test_owed_is_what_no_refund_followed_and_ambiguous_what_refunds_do_not_suffice_for(
    tasks: list[int], refunds: list[int]
):
    found = weighed(tasks, refunds)
    for pk, at in enumerate(tasks):
        assert (found[pk] is Class.OWED) == (not any(each >= at for each in refunds))
    followed = [at for pk, at in enumerate(tasks) if found[pk] is not Class.OWED]
    doubtful = sum(kind is Class.AMBIGUOUS for kind in found.values())
    assert doubtful == len(followed) - most_pairs(followed, refunds)


@given(times, times, times)
def test_log_rows_of_our_own_settlements_change_nothing(tasks: list[int], refunds: list[int], ours: list[int]):
    assert weighed(tasks, refunds + ours, ours) == weighed(tasks, refunds)


@given(times, times, times)
def test_a_settlement_without_its_log_row_hides_no_refund_of_another_time(
    tasks: list[int], refunds: list[int], ours: list[int]
):
    apart = [at * 100 for at in refunds]
    assert weighed([at * 100 for at in tasks], apart, [at * 100 + 1 for at in ours]) == weighed(
        [at * 100 for at in tasks], apart
    )


def test_groups_do_not_mix():
    weighing = Weighing()
    weighing.refund(place_of_refund(1, "a", 9))
    assert weighing.task(place_of_task(1, "a", 5, True), task(1, 5)) is None
    other = weighing.task(place_of_task(1, "b", 5, True), task(2, 5))
    third = weighing.task(place_of_task(2, "b", 5, True), task(3, 5))
    assert other is not None
    assert third is not None
    assert (other.kind, third.kind) == (Class.OWED, Class.OWED)
    weighing.refund(place_of_refund(2, "c", 9))
    last = weighing.task(place_of_task(3, "c", 5, True), task(4, 5))
    assert last is not None
    assert last.kind is Class.OWED


def test_an_odd_task_is_for_a_person_whatever_the_logs_say():
    finding = Weighing().task(place_of_task(1, "a", 5, True), task(1, 5, charged=40, doubt="used"))
    assert finding is not None
    assert (finding.kind, finding.quota) == (Class.AMBIGUOUS, 410)


def test_a_task_that_has_just_ended_may_be_refunded_any_moment():
    weighing = Weighing()
    found = weighing.task(place_of_task(1, "a", 5, True), task(1, 5, doubt="young"))
    assert found is not None
    assert found.kind is Class.AMBIGUOUS
    weighing.refund(place_of_refund(1, "b", 9))
    assert weighing.task(place_of_task(1, "b", 8, True), task(2, 8, doubt="young")) is None
    older = weighing.task(place_of_task(1, "b", 7, True), task(3, 7))
    assert older is not None
    assert older.kind is Class.AMBIGUOUS


def test_what_is_owed_goes_by_the_one_path_by_which_money_moves():
    settlement = settlement_of(task(7, 5_000_000, outcome=Outcome.SUCCESS, charged=41, fail_reason=""))
    assert (settlement.task.pk, settlement.task.state, settlement.task.submitted_s) == (7, State.SUCCESS, 5.0)
    assert (settlement.outcome, settlement.charged, settlement.rule) == (Outcome.SUCCESS, 41, "reconciled")
