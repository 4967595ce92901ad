"""What becomes of a task, given what upstream said of it: the whole of the law, in one function.

    success word            Settle at the price of its usage
    failed word             Settle at 0
    processing word         Advance when state or progress changed, else Keep
    not_found               a failed word only where listed so, and then only after enough sightings
    any other word          Keep, and never a verdict
    absent                  Keep
    no usable answer        Keep, and never a verdict

Past the deadline a task that is processing, not_found or absent is given up, by policy with a refund or held for a
person. A word in no list, a contradiction or an unreadable item then hold it without moving money. Where nothing
usable is heard at all the deadline waits, to 12 times the lifetime, and to the end of a lifetime of asking: after a
daemon that was off for days, the first failure proves nothing.
"""

from __future__ import annotations

import re
from typing import Final

from poller.core.evidence import clean_text
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
    Task,
    Verdict,
)
from poller.core.states import can_move, is_final

NOT_FOUND: Final = "not_found"
SKEW_S: Final = 86400.0
"""How far ahead of the database's clock a submit time may lie before it counts as unreadable: clocks of gateways go
wrong by minutes and hours, milliseconds taken for seconds by millennia. Until then the deadline just comes later."""
WAIT_LIFETIMES: Final = 12
"""Lifetimes after which a task that nobody can be asked about is held for a person."""
PROGRESS_LIMIT: Final = 20
"""Characters that ``tasks.progress`` holds."""

KEEP_REASONS: Final = frozenset(
    {
        "final",
        "processing",
        "unknown_word",
        "not_found",
        "absent",
        "unproven",
        "unreadable",
        "contradiction",
        "no_answer",
    }
)
SETTLE_REASONS: Final = frozenset({"success_word", "failed_word", "not_found_confirmed"})
REFUND_REASONS: Final = frozenset({"expired"})
HOLD_REASONS: Final = frozenset(
    {
        "deadline_hold",
        "age_unreadable",
        "unknown_past_deadline",
        "unreadable_past_deadline",
        "contradiction_past_deadline",
        "unreachable_past_limit",
    }
)
REASONS: Final = KEEP_REASONS | SETTLE_REASONS | REFUND_REASONS | HOLD_REASONS
"""Every reason that a decision can give; a closed vocabulary, fit for labels."""

_KEPT: Final = {reason: Keep(reason) for reason in KEEP_REASONS}
_CLEARED: Final = {reason: Keep(reason, 0) for reason in KEEP_REASONS}
_KEPT_PROCESSING: Final = _KEPT["processing"]
_SAID: Final = Kind.SAID
_IN_PROGRESS: Final = State.IN_PROGRESS
_NUMBER: Final = re.compile(r"(-?[0-9]+(?:\.[0-9]+)?) *%?")


def decide(task: Task, report: Report, now_s: float, policy: Policy, *, is_triggered: bool = False) -> Decision:
    """The fate of *task*, by what *report* says of it.

    *now_s* is the database's time when the ask was sent, so that an answer counts as after the deadline only when the
    question was. *is_triggered*: somebody asked for this poll; it adds no ``not_found`` sighting.
    """
    if is_final(task.state):
        return _KEPT["final"]
    said = report.kind is _SAID
    word = report.word
    if said:
        words = policy.words
        if word in words.success:
            return _settle(Outcome.SUCCESS, "success_word", report)
        if word in words.failed and word != NOT_FOUND:
            return _settle(Outcome.FAILURE, "failed_word", report)

    age_s = now_s - task.submitted_s
    if not (age_s >= -SKEW_S - policy.behind_s and task.submitted_s > 0):
        return _hold("age_unreadable", _age_detail(age_s), report)
    is_past = age_s >= policy.lifetime_s

    if not said:
        return _unsaid(task, report, age_s, policy)
    if word in words.processing:
        return _expired(word, report, policy) if is_past else _progressed(task, report)
    if word == NOT_FOUND:
        if word in words.failed:
            return _not_found(task, report, now_s, policy, is_triggered)
        return _expired(word, report, policy) if is_past else _keep("unknown_word", task)
    if is_past:
        return _hold("unknown_past_deadline", f"upstream says a word in no list: {clean_text(word, 64)}", report)
    return _keep("unknown_word", task)


def has_flipped(said: Settlement, settled: Settled) -> bool:
    """Whether upstream's verdict now contradicts the one, upstream's too, by which the task was settled before.

    It is asked again about a settled task only where somebody reopened the row. The first verdict stands.
    """
    is_old = settled.verdict in (Verdict.REOPENED, Verdict.ALREADY)
    is_upstreams = said.rule in SETTLE_REASONS and settled.rule in SETTLE_REASONS
    return is_old and is_upstreams and said.outcome is not settled.outcome


def progress_of(task: Task, report: Report) -> str:
    """The progress that an open row may show: as upstream says, a number within 0–99 %, at most 20 characters.

    The row's own where upstream says none or exactly 100 %, which is written with a final status and only then.
    """
    said = report.progress
    if not said or said == task.progress:
        return task.progress
    text = clean_text(said, PROGRESS_LIMIT)
    number = _NUMBER.fullmatch(text)
    if number is None:
        return text or task.progress
    value = float(number[1])
    if value == 100:
        return task.progress
    if value < 0:
        return "0%"
    return f"{number[1][: PROGRESS_LIMIT - 1]}%" if value <= 99 else "99%"


def _progressed(task: Task, report: Report) -> Decision:
    state = _IN_PROGRESS if can_move(task.state, _IN_PROGRESS) else task.state
    progress = progress_of(task, report)
    if state is task.state and progress == task.progress:
        return _CLEARED["processing"] if task.sightings else _KEPT_PROCESSING
    return Advance(state, progress, report.payload, 0 if task.sightings else None)


def _not_found(task: Task, report: Report, now_s: float, policy: Policy, is_triggered: bool) -> Decision:
    """``not_found`` where it is a failed word: it counts once it was seen often enough on a task that is old enough."""
    sightings = task.sightings
    if not is_triggered and (not sightings or now_s - task.sighted_s >= policy.interval_s):
        sightings += 1
    age_s = now_s - task.submitted_s
    if sightings >= policy.not_found_count and age_s >= policy.not_found_grace_s:
        return _settle(Outcome.FAILURE, "not_found_confirmed", report)
    if age_s >= policy.lifetime_s:
        return _expired(report.word, report, policy)
    return Keep("not_found", sightings) if sightings != task.sightings else _KEPT["not_found"]


def _unsaid(task: Task, report: Report, age_s: float, policy: Policy) -> Decision:
    """Every report without a word. Only an answer that speaks of this very task interrupts a row of sightings."""
    is_past = age_s >= policy.lifetime_s
    match report.kind:
        case Kind.ABSENT:
            return _expired("nothing of it", report, policy) if is_past else _keep("absent", task)
        case Kind.UNREADABLE if is_past:
            return _hold("unreadable_past_deadline", "upstream's item for it cannot be read", report)
        case Kind.CONTRADICTION if is_past:
            return _hold("contradiction_past_deadline", "upstream's answer contradicts itself about it", report)
        case Kind.UNREADABLE | Kind.CONTRADICTION:
            return _keep(report.kind.value, task)
        case _:
            if age_s >= WAIT_LIFETIMES * policy.lifetime_s and policy.asking_s >= policy.lifetime_s:
                detail = f"no usable answer about it within {WAIT_LIFETIMES} times {policy.lifetime_s:g} s"
                return _hold("unreachable_past_limit", detail, report)
            return _KEPT[report.kind.value]


def _keep(reason: str, task: Task) -> Keep:
    return _CLEARED[reason] if task.sightings else _KEPT[reason]


def _settle(outcome: Outcome, reason: str, report: Report) -> Settle:
    return Settle(
        outcome,
        reason,
        usage=report.usage,
        usage_unusable=report.usage_unusable,
        error=report.error,
        payload=report.payload,
        finished_s=report.finished_s,
    )


def _expired(said: str, report: Report, policy: Policy) -> GiveUp:
    detail = f"no result within {policy.lifetime_s:g} s; upstream last said {said}"
    reason = "expired" if policy.deadline_refunds else "deadline_hold"
    return GiveUp(policy.deadline_refunds, reason, detail, report.payload)


def _hold(reason: str, detail: str, report: Report) -> GiveUp:
    return GiveUp(False, reason, detail, report.payload)


def _age_detail(age_s: float) -> str:
    if age_s < -SKEW_S:
        return "the submit time lies in the future, or is not in seconds"
    return "the row has no submit time"
