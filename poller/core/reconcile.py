"""Which finished tasks are still owed money: what the logs say of refunds, weighed against what tasks say is owed.

A gateway's log does not always name the task that it gave money back for. So tasks and refunds are compared in groups
that look alike (same user and amount, or same user and task id), newest first: a refund can only be for a task that was
submitted before it, give or take a day of the clocks. What is certain is said, what is not is left to a person.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

from poller.core.model import Outcome, Settlement, State, Task

DOUBTS: Final = {
    "used": "failed, yet a part counts as used",
    "young": "finished within 10 minutes: it may be refunded right now",
    "unlogged": "log rows of refunds begin after it, or nobody has written any since it ended",
    "unnamed": "it has no id by which a log row could name it",
    "untraced": "the guide's own repair SQL would have paid it without a trace",
}
"""Why a task without a refund may not be owed, in words."""
UNTOLD: Final = frozenset({DOUBTS["unlogged"], DOUBTS["unnamed"], DOUBTS["untraced"]})
"""The details that a person can settle who knows what was done."""


class Candidate(NamedTuple):
    """A finished task without a ledger row that says that it is owed money."""

    pk: int
    task_id: str
    user_id: int
    channel_id: int
    model: str
    outcome: Outcome
    reserved: int
    charged: int
    fail_reason: str
    at_us: int
    """Microseconds since the epoch: since when a refund may be its own."""
    doubt: str
    """One of ``DOUBTS``, or empty."""


class Class(enum.StrEnum):
    """What is wrong. The values stand in reports."""

    OWED = "owed"
    """Finished, not refunded: certain."""
    AMBIGUOUS = "ambiguous"
    """Finished, perhaps refunded: for a person."""
    OPEN_AGAIN = "open_again"
    """Settled, and the task is not final: a running daemon puts it back."""
    OTHER_TASK = "other_task"
    """Settled, and the row now is another task's."""
    OTHER_OUTCOME = "other_outcome"
    """Settled one way, final in the other."""
    OTHER_AMOUNT = "other_amount"
    """Settled, and the task has other amounts."""
    NO_LOG = "no_log"
    """Settled, and the log row of it is not there."""


class Finding(NamedTuple):
    """One difference. *quota* is what it is about, never negative."""

    kind: Class
    pk: int
    task_id: str
    user_id: int
    channel_id: int
    quota: int
    detail: str = ""
    candidate: Candidate | None = None
    """The task as it was read, where money is owed."""


Place = tuple[int, str, int, int]
"""Where an event stands: user, key, time (negative microseconds, so that newest comes first), sort of event."""
_REFUND, _SETTLED, _TASK = 0, 1, 2


def place_of_refund(user_id: int, key: str, at_us: int) -> Place:
    """Where a refund's log row stands among all events."""
    return user_id, key, -at_us, _REFUND


def place_of_task(user_id: int, key: str, at_us: int, is_task: bool) -> Place:
    """Where a candidate stands, or (*is_task* False) a settlement of ours with a refund that looks alike."""
    return user_id, key, -at_us, _TASK if is_task else _SETTLED


class Weighing:
    """Weighs events in the order of their places; keeps four numbers, however many events there are."""

    def __init__(self) -> None:
        self._group: tuple[int, str] | None = None
        self._refunds = self._claims = 0
        self._now_us = self._now_count = 0

    def refund(self, place: Place) -> None:
        """A log row says that money went back."""
        self._enter(place)
        if place[2] != self._now_us:
            self._now_us, self._now_count = place[2], 0
        self._now_count += 1
        self._refunds += 1

    def settlement(self, place: Place) -> None:
        """A settlement of ours gave money back at this very time: its log row is explained."""
        self._enter(place)
        if place[2] == self._now_us and self._now_count:
            self._now_count -= 1
            self._refunds -= 1

    def task(self, place: Place, task: Candidate) -> Finding | None:
        """What is wrong with a candidate; None when a refund since its submission can only be its own."""
        self._enter(place)
        owed = task.reserved - task.charged
        if task.doubt == "used" or (task.doubt and not self._refunds):
            return _finding(Class.AMBIGUOUS, task, owed, DOUBTS[task.doubt])
        if not self._refunds:
            return _finding(Class.OWED, task, owed, "no refund since it was submitted")
        if self._claims < self._refunds:
            self._claims += 1
            return None
        rows = "1 refund" if self._refunds == 1 else f"{self._refunds} refunds"
        return _finding(Class.AMBIGUOUS, task, owed, f"{rows} since then for {self._claims + 1} tasks that look alike")

    def _enter(self, place: Place) -> None:
        if place[:2] != self._group:
            self._group = place[:2]
            self._refunds = self._claims = self._now_count = 0


def settlement_of(task: Candidate) -> Settlement:
    """What is owed as a settlement, for the one path by which money moves."""
    return Settlement(
        Task(
            pk=task.pk,
            task_id=task.task_id,
            upstream_id=task.task_id,
            user_id=task.user_id,
            channel_id=task.channel_id,
            model=task.model,
            price_model=task.model,
            group="",
            state=State(task.outcome.value),
            progress="100%",
            reserved=task.reserved,
            submitted_s=task.at_us / 1e6,
            key=None,
            client_token=None,
            token_header="",
            terms="",
        ),
        task.outcome,
        task.charged,
        "reconciled",
        price_source="as_recorded",
        fail_reason=task.fail_reason,
        evidence="finished without a refund: no ledger row, and no log row of one",
    )


def _finding(kind: Class, task: Candidate, owed: int, detail: str) -> Finding:
    return Finding(kind, task.pk, task.task_id, task.user_id, task.channel_id, owed, detail, task)
