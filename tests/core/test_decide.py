"""The whole space state x report x age x policy: laws over all of it, and the decision for each row of the table."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.core.decide import (
    HOLD_REASONS,
    KEEP_REASONS,
    REASONS,
    REFUND_REASONS,
    SETTLE_REASONS,
    decide,
    has_flipped,
    progress_of,
)
from poller.core.model import (
    Advance,
    Decision,
    GiveUp,
    Keep,
    Kind,
    Outcome,
    Policy,
    Report,
    Settle,
    Settled,
    Settlement,
    State,
    StatusWords,
    Task,
    Usage,
    Verdict,
)
from poller.core.states import can_move, is_final, rank

NOW_S = 1_800_000_000.0
LIFETIME_S = 3600.0
INTERVAL_S = 30.0
GRACE_S = 300.0
OPEN = [state for state in State if not is_final(state)]
UNLISTED = StatusWords(frozenset({"completed"}), frozenset({"failed"}), frozenset({"processing"}))
LISTED = StatusWords(UNLISTED.success, UNLISTED.failed | {"not_found"}, UNLISTED.processing)
POLICIES = [
    Policy(words, INTERVAL_S, LIFETIME_S, refunds, count, GRACE_S)
    for words in (UNLISTED, LISTED)
    for refunds in (True, False)
    for count in (1, 3)
]
AGES = {
    "ahead": -86399.0,
    "fresh": 10.0,
    "graced": GRACE_S,
    "almost": LIFETIME_S - 0.001,
    "past": LIFETIME_S,
    "long past": 12 * LIFETIME_S - 1,
    "past all": 12 * LIFETIME_S,
    "milliseconds": NOW_S - 1000 * NOW_S,
    "future": -86401.0,
    "none": NOW_S,
    "negative": 2 * NOW_S,
    "nan": math.nan,
}
UNREADABLE_AGES = {"milliseconds", "future", "none", "negative", "nan"}
WORDS = ["completed", "failed", "processing", "teleporting", "", "not_found"]
REPORTS = [Report(Kind.SAID, word, progress, usage=Usage(1, 2, 3)) for word in WORDS for progress in ("", "40%")] + [
    Report(kind, payload=b"{}") for kind in Kind if kind is not Kind.SAID
]
SIGHTINGS = [(0, 0.0), (2, INTERVAL_S), (2, INTERVAL_S - 1), (3, 1.0)]
"""Sightings so far, and how many seconds ago the last was."""


class Case(NamedTuple):
    task: Task
    report: Report
    policy: Policy
    age: str
    is_triggered: bool

    @property
    def age_s(self) -> float:
        return AGES[self.age]

    def decide(self) -> Decision:
        return decide(self.task, self.report, NOW_S, self.policy, is_triggered=self.is_triggered)


def task_in(state: State, age_s: float, *, progress: str = "30%", sightings: int = 0, sighted_s: float = 0.0) -> Task:
    return Task(
        1, "t1", "t1", 7, 3, "m/submit", "m/submit", "", state, progress, 100, NOW_S - age_s, None, None, "", "",
        sightings, sighted_s,
    )  # fmt: skip


def space() -> Iterator[Case]:
    for state, report, policy, age, (sightings, ago_s), is_triggered in itertools.product(
        State, REPORTS, POLICIES, AGES, SIGHTINGS, (False, True)
    ):
        task = task_in(state, AGES[age], sightings=sightings, sighted_s=NOW_S - ago_s)
        yield Case(task, report, policy, age, is_triggered)


SPACE = [(case, case.decide()) for case in space()]


def is_evidence(case: Case) -> bool:
    """A good answer in which this id is processing, not_found or absent."""
    if case.report.kind is Kind.ABSENT:
        return True
    return case.report.kind is Kind.SAID and case.report.word in {"processing", "not_found"}


# -- laws over the whole space ----------------------------------------------------------------------------------------


def test_the_space_is_as_large_as_it_should_be() -> None:
    assert len(SPACE) == len(State) * (2 * 6 + 5) * 8 * 12 * 4 * 2
    assert {decision.reason for _, decision in SPACE if not isinstance(decision, Advance)} == REASONS


def test_every_decision_gives_a_reason_of_its_own_vocabulary() -> None:
    for _, decision in SPACE:
        if isinstance(decision, Keep):
            assert decision.reason in KEEP_REASONS
        elif isinstance(decision, Settle):
            assert decision.reason in SETTLE_REASONS
        elif isinstance(decision, GiveUp):
            assert decision.reason in (REFUND_REASONS if decision.refund else HOLD_REASONS)
            assert decision.detail
            assert "\n" not in decision.detail


def test_money_moves_only_on_a_verdict_or_on_evidence_after_the_deadline() -> None:
    for case, decision in SPACE:
        if isinstance(decision, Settle):
            assert case.report.kind is Kind.SAID
            listed = case.policy.words.success if decision.outcome is Outcome.SUCCESS else case.policy.words.failed
            assert case.report.word in listed
        elif isinstance(decision, GiveUp) and decision.refund:
            assert case.policy.deadline_refunds
            assert case.age_s >= LIFETIME_S
            assert case.age not in UNREADABLE_AGES
            assert is_evidence(case)


def test_the_hold_policy_never_refunds_at_the_deadline() -> None:
    for case, decision in SPACE:
        if not case.policy.deadline_refunds:
            assert not (isinstance(decision, GiveUp) and decision.refund)


def test_nothing_goes_backwards_and_a_final_task_is_left_alone() -> None:
    for case, decision in SPACE:
        if is_final(case.task.state):
            assert decision == Keep("final")
        elif isinstance(decision, Advance):
            assert decision.state is case.task.state or can_move(case.task.state, decision.state)
            assert rank(decision.state) >= rank(case.task.state)
            assert not is_final(decision.state)


def test_an_open_row_never_shows_a_hundred_percent() -> None:
    for state, said in itertools.product(OPEN, ("100%", "100", " 100 %", "100.0%", "150%", "1\u202e00%", "99.9%")):
        decision = decide(task_in(state, 10), Report(Kind.SAID, "processing", said), NOW_S, POLICIES[0])
        if isinstance(decision, Advance):
            assert decision.progress in {"30%", "99%"}


def test_an_unknown_word_is_never_a_verdict() -> None:
    for case, decision in SPACE:
        if case.report.kind is Kind.SAID and case.report.word in {"teleporting", ""}:
            assert isinstance(decision, Keep) or (isinstance(decision, GiveUp) and not decision.refund)


def test_no_answer_and_an_unproven_one_only_ever_keep_or_hold() -> None:
    for case, decision in SPACE:
        if case.report.kind in (Kind.NO_ANSWER, Kind.UNPROVEN):
            assert isinstance(decision, Keep) or (isinstance(decision, GiveUp) and not decision.refund)
            assert not isinstance(decision, Keep) or decision.sightings is None


def test_a_verdict_settles_whatever_the_age() -> None:
    for case, decision in SPACE:
        if (
            case.report.kind is Kind.SAID
            and not is_final(case.task.state)
            and case.report.word in {"completed", "failed"}
        ):
            assert isinstance(decision, Settle)


def test_an_unreadable_age_holds_everything_but_a_verdict() -> None:
    for case, decision in SPACE:
        if case.age in UNREADABLE_AGES and not is_final(case.task.state) and not isinstance(decision, Settle):
            assert isinstance(decision, GiveUp)
            assert (decision.refund, decision.reason) == (False, "age_unreadable")


def test_before_the_deadline_nothing_is_given_up() -> None:
    for case, decision in SPACE:
        if case.age_s < LIFETIME_S and case.age not in UNREADABLE_AGES:
            assert not isinstance(decision, GiveUp)


def test_a_listed_not_found_settles_only_seen_often_enough_on_a_task_old_enough() -> None:
    for case, decision in SPACE:
        if isinstance(decision, Settle) and case.report.word == "not_found":
            is_new = not case.is_triggered and (
                case.task.sightings == 0 or NOW_S - case.task.sighted_s >= case.policy.interval_s
            )
            assert case.task.sightings + is_new >= case.policy.not_found_count
            assert case.age_s >= GRACE_S


def test_a_triggered_ask_adds_no_sighting() -> None:
    for case, decision in SPACE:
        if case.is_triggered and isinstance(decision, Keep | Advance):
            assert decision.sightings in (None, 0)


def test_sightings_are_cleared_by_any_other_answer_and_by_nothing_else() -> None:
    for case, decision in SPACE:
        if not isinstance(decision, Keep | Advance) or is_final(case.task.state):
            continue
        speaks = case.report.kind not in (Kind.NO_ANSWER, Kind.UNPROVEN)
        is_sighting = case.report.word == "not_found" and case.policy.words is LISTED
        if speaks and not is_sighting and case.task.sightings:
            assert decision.sightings == 0
        elif not is_sighting:
            assert decision.sightings is None


def test_settling_hands_on_all_that_was_reported() -> None:
    report = Report(Kind.SAID, "failed", "7%", "boom", Usage(1), True, 123.0, b'{"x":1}')
    assert decide(task_in(State.QUEUED, 5), report, NOW_S, POLICIES[0]) == Settle(
        Outcome.FAILURE, "failed_word", Usage(1), True, "boom", b'{"x":1}', 123.0
    )


# -- the rows of the table --------------------------------------------------------------------------------------------

REFUNDS = Policy(UNLISTED, INTERVAL_S, LIFETIME_S, True, 3, GRACE_S)
HOLDS = Policy(UNLISTED, INTERVAL_S, LIFETIME_S, False, 3, GRACE_S)
COUNTS = Policy(LISTED, INTERVAL_S, LIFETIME_S, True, 3, GRACE_S)
BEGINS = Policy(UNLISTED, INTERVAL_S, LIFETIME_S, True, 3, GRACE_S, asking_s=LIFETIME_S - 1)
BEHIND = Policy(UNLISTED, INTERVAL_S, LIFETIME_S, True, 3, GRACE_S, behind_s=10 * 86400)


def said(word: str, **facts: object) -> Report:
    return Report(Kind.SAID, word, **facts)  # type: ignore[arg-type]


@pytest.mark.parametrize("state", OPEN)
@pytest.mark.parametrize(
    ("report", "age_s", "policy", "expected"),
    [
        (said("teleporting"), 10, REFUNDS, Keep("unknown_word")),
        (said("not_found"), 10, REFUNDS, Keep("unknown_word")),
        (said("not_found"), 10, COUNTS, Keep("not_found", 1)),
        (Report(Kind.ABSENT), LIFETIME_S - 1, REFUNDS, Keep("absent")),
        (Report(Kind.UNPROVEN), LIFETIME_S, REFUNDS, Keep("unproven")),
        (Report(Kind.UNREADABLE), 10, REFUNDS, Keep("unreadable")),
        (Report(Kind.CONTRADICTION), 10, REFUNDS, Keep("contradiction")),
        (Report(Kind.NO_ANSWER), 12 * LIFETIME_S - 1, REFUNDS, Keep("no_answer")),
        (said("completed"), 10, REFUNDS, Settle(Outcome.SUCCESS, "success_word")),
        (said("completed"), 99 * LIFETIME_S, HOLDS, Settle(Outcome.SUCCESS, "success_word")),
        (said("failed"), 10, REFUNDS, Settle(Outcome.FAILURE, "failed_word")),
        (said("processing"), LIFETIME_S, REFUNDS, (True, "expired")),
        (said("processing"), LIFETIME_S, HOLDS, (False, "deadline_hold")),
        (said("not_found"), LIFETIME_S, REFUNDS, (True, "expired")),
        (said("not_found"), LIFETIME_S, COUNTS, (True, "expired")),
        (said("not_found"), LIFETIME_S, HOLDS, (False, "deadline_hold")),
        (Report(Kind.ABSENT), LIFETIME_S, REFUNDS, (True, "expired")),
        (Report(Kind.ABSENT), LIFETIME_S, HOLDS, (False, "deadline_hold")),
        (said("teleporting"), LIFETIME_S, REFUNDS, (False, "unknown_past_deadline")),
        (Report(Kind.UNREADABLE), LIFETIME_S, REFUNDS, (False, "unreadable_past_deadline")),
        (Report(Kind.CONTRADICTION), LIFETIME_S, REFUNDS, (False, "contradiction_past_deadline")),
        (Report(Kind.NO_ANSWER), 12 * LIFETIME_S, REFUNDS, (False, "unreachable_past_limit")),
        (Report(Kind.UNPROVEN), 12 * LIFETIME_S, REFUNDS, (False, "unreachable_past_limit")),
        (Report(Kind.NO_ANSWER), 99 * LIFETIME_S, BEGINS, Keep("no_answer")),
        (Report(Kind.UNPROVEN), 99 * LIFETIME_S, BEGINS, Keep("unproven")),
        (Report(Kind.ABSENT), 99 * LIFETIME_S, BEGINS, (True, "expired")),
        (Report(Kind.NO_ANSWER), -10 * 86400, BEHIND, Keep("no_answer")),
        (Report(Kind.NO_ANSWER), -11 * 86400 - 1, BEHIND, (False, "age_unreadable")),
        (said("processing"), -86401, REFUNDS, (False, "age_unreadable")),
        (Report(Kind.NO_ANSWER), -86401, REFUNDS, (False, "age_unreadable")),
    ],
)
def test_a_row_of_the_table(
    state: State, report: Report, age_s: float, policy: Policy, expected: Decision | tuple[bool, str]
) -> None:
    decision = decide(task_in(state, age_s), report, NOW_S, policy)
    if isinstance(decision, GiveUp):
        assert (decision.refund, decision.reason) == expected
    else:
        assert decision == expected


@pytest.mark.parametrize("state", OPEN)
def test_a_processing_word_advances_what_is_lower_and_keeps_the_rest(state: State) -> None:
    decision = decide(task_in(state, 10), said("processing", payload=b"{}"), NOW_S, REFUNDS)
    if state is State.IN_PROGRESS:
        assert decision == Keep("processing")
    else:
        assert decision == Advance(State.IN_PROGRESS, "30%", b"{}")


def test_a_new_progress_is_written_without_a_new_state() -> None:
    task = task_in(State.IN_PROGRESS, 10)
    assert decide(task, said("processing", progress="40%"), NOW_S, REFUNDS) == Advance(State.IN_PROGRESS, "40%", b"")
    assert decide(task, said("processing", progress="30%"), NOW_S, REFUNDS) == Keep("processing")


def test_not_found_counts_after_three_sightings_an_interval_apart_on_an_old_enough_task() -> None:
    task = task_in(State.SUBMITTED, 240)
    seen: list[Decision] = []
    for ago_s, age_s in ((0, 240), (29, 269), (30, 270), (30, 300)):
        now_s = NOW_S - 240 + age_s
        decision = decide(task, said("not_found"), now_s, COUNTS)
        seen.append(decision)
        if isinstance(decision, Keep) and decision.sightings is not None:
            task = task._replace(sightings=decision.sightings, sighted_s=now_s)
        assert ago_s <= 30
    assert seen[:3] == [Keep("not_found", 1), Keep("not_found"), Keep("not_found", 2)]
    assert isinstance(seen[3], Settle)
    assert (seen[3].outcome, seen[3].reason) == (Outcome.FAILURE, "not_found_confirmed")


def test_not_found_waits_for_the_grace_however_often_it_was_seen() -> None:
    task = task_in(State.SUBMITTED, GRACE_S - 1, sightings=9, sighted_s=NOW_S - 60)
    assert decide(task, said("not_found"), NOW_S, COUNTS) == Keep("not_found", 10)


def test_progress_is_dropped_to_what_an_open_row_may_show() -> None:
    task = task_in(State.IN_PROGRESS, 10)
    shown = {
        "": "30%",
        "45%": "45%",
        "45": "45%",
        "0.5%": "0.5%",
        "99%": "99%",
        "99.5%": "99%",
        "150%": "99%",
        "-1%": "0%",
        "100%": "30%",
        "100": "30%",
        "100.00 %": "30%",
        "1\x0000%": "30%",
        "step 2 of 5": "step 2 of 5",
        "\x00": "30%",
        "0.123456789012345678901234": "0.12345678901234567%",
    }
    for text, expected in shown.items():
        assert progress_of(task, Report(Kind.SAID, "processing", text)) == expected, text


@given(st.text(max_size=200))
def test_any_progress_fits_the_column_and_never_says_a_hundred_percent(text: str) -> None:
    shown = progress_of(task_in(State.IN_PROGRESS, 10), Report(Kind.SAID, "processing", text))
    assert len(shown) <= 20
    assert shown != "100%"
    assert "\x00" not in shown


@pytest.mark.parametrize("verdict", Verdict)
@pytest.mark.parametrize("now", sorted(SETTLE_REASONS | REFUND_REASONS))
@pytest.mark.parametrize("before", [*sorted(SETTLE_REASONS | REFUND_REASONS), "by_hand"])
def test_a_flip_is_upstreams_word_against_upstreams_word_about_a_task_settled_before(
    verdict: Verdict, now: str, before: str
) -> None:
    task = task_in(State.IN_PROGRESS, 10.0)
    outcome = {"success_word": Outcome.SUCCESS}
    said = Settlement(task, outcome.get(now, Outcome.FAILURE), 0, rule=now)
    settled = Settled(task, verdict, outcome.get(before, Outcome.FAILURE), before)
    is_settled_before = verdict in (Verdict.REOPENED, Verdict.ALREADY)
    is_contradiction = (now == "success_word") != (before == "success_word") and not {now, before} & {
        "expired",
        "by_hand",
    }
    assert has_flipped(said, settled) is (is_settled_before and is_contradiction)
