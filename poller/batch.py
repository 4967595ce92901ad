"""One batch after it was asked about: decide on every task, then write what was decided.

Money goes first, and each write is its own short transaction: being killed between two of them leaves tasks open,
which the next pass sees again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import anyio

from poller.core import evidence, settlements
from poller.core.batches import Batch
from poller.core.decide import decide, has_flipped
from poller.core.model import (
    NO_ANSWER,
    Advance,
    Channel,
    GiveUp,
    Keep,
    Kind,
    Outcome,
    Policy,
    Report,
    Settle,
    Settled,
    Settlement,
    Task,
    Verdict,
)
from poller.core.passes import PassCounts
from poller.core.pricing import PriceBook
from poller.core.ratios import is_plausible
from poller.core.refunds import RefundLimit
from poller.crashpoints import reach

_QUIET_KEEPS = frozenset({"final", "processing", "absent", "no_answer", "not_found"})


class Tasks(Protocol):
    """The writes that a batch may need, and the prices behind them."""

    async def prices(self) -> PriceBook: ...

    async def user_groups(self, ids: Sequence[int]) -> dict[int, str]: ...

    async def refunded_within_hour(self, channel_id: int) -> int: ...

    async def settle(self, settlements: Sequence[Settlement]) -> list[Settled]: ...

    async def advance(self, changes: Sequence[tuple[Task, Advance]]) -> int: ...

    async def remember(self, channel_id: int, sightings: Sequence[tuple[Task, int]]) -> None: ...

    async def remember_keys(self, channel_id: int, digests: Sequence[tuple[Task, str]]) -> None: ...

    async def quarantine(self, entries: Sequence[tuple[Task, str, str]]) -> int: ...

    async def unknown_words(self, channel_id: int, words: Mapping[str, tuple[int, str]]) -> None: ...


class Witness(Protocol):
    """Who counts and logs what happened to a batch."""

    def settled(self, settled: Settled, duration_s: float) -> None: ...

    def flipped(self, settled: Settled, said: Outcome) -> None: ...

    def refunds_held(self, channel_id: int, limit: int, given: int) -> None: ...

    def refunds_released(self, channel_id: int) -> None: ...

    def advanced(self, channel_id: int, count: int) -> None: ...

    def anomaly(self, channel_id: int, kind: str, count: int = 1) -> None: ...

    def unknown_word(self, channel_id: int, word: str, count: int) -> None: ...

    def quarantined(self, task: Task, reason: str, detail: str) -> None: ...

    def detection_lag(self, lag_s: float) -> None: ...


@dataclass(slots=True)
class _Judged:
    """The decisions on a batch, sorted by what they ask for."""

    settles: list[tuple[Task, Settle, Report]] = field(default_factory=list)
    refunds: list[tuple[Task, GiveUp, Report]] = field(default_factory=list)
    holds: list[tuple[Task, str, str, str]] = field(default_factory=list)
    """With reason, detail and evidence. The evidence has upstream's answer in it, which belongs in no log."""
    advances: list[tuple[Task, Advance]] = field(default_factory=list)
    sightings: list[tuple[Task, int]] = field(default_factory=list)
    words: dict[str, tuple[int, str]] = field(default_factory=dict)
    waiting: set[int] = field(default_factory=set)
    """Pks among them that the limit of refunds leaves open."""


class Bench:
    """Judges the batches of one lane and has the judgement carried out."""

    def __init__(self, tasks: Tasks, witness: Witness, max_refund_per_hour: int | None = None) -> None:
        self._tasks = tasks
        self._witness = witness
        self._refunds = RefundLimit(max_refund_per_hour)
        self._is_holding = False

    async def begin_pass(self, channel_id: int) -> None:
        """Learn what was given back lately, where there is a limit to it. Raises DatabaseAway."""
        if self._refunds.limit is not None:
            self._refunds.begin(await self._tasks.refunded_within_hour(channel_id))

    def end_pass(self, channel_id: int, counts: PassCounts) -> None:
        """A whole pass ended: when no refund had to wait on it any more, that is said."""
        if self._is_holding and not counts.refunds_held:
            self._is_holding = False
            self._witness.refunds_released(channel_id)

    async def conclude(
        self,
        channel: Channel,
        batch: Batch,
        reports: Mapping[str, Report],
        *,
        now_s: float,
        policy: Policy,
        is_triggered: bool,
        counts: PassCounts,
        lessons: Mapping[int, str],
        waited_s: float = 0.0,
    ) -> None:
        """Decide on every task of *batch* and write the decisions; an id without a report counts as not answered.

        *now_s* is the database's time at which the batch was asked, *waited_s* how long that took since. *lessons*:
        digests of the key to ask with next time, by pk, as far as they are news. Raises Defer when the database is
        away: what was not written then is still open, and due on the next pass.
        """
        judged = self._judge(channel, batch, reports, now_s, policy, is_triggered, counts)
        reach("batch.judged")
        if judged.settles or judged.refunds:
            await self._settle(channel, judged, now_s + waited_s, counts)
            reach("batch.settled")
        if judged.advances:
            advanced = await self._tasks.advance(judged.advances)
            reach("batch.advanced")
            counts.advanced += advanced
            self._witness.advanced(channel.id, advanced)
        if judged.sightings:
            await self._tasks.remember(channel.id, judged.sightings)
            reach("batch.remembered")
        if lessons:
            await self._tasks.remember_keys(channel.id, _of_open_tasks(lessons, batch, judged))
            reach("batch.keyed")
        if judged.holds:
            notes = [(task, reason, f"{detail} {seen}".strip()) for task, reason, detail, seen in judged.holds]
            counts.quarantined += await self._tasks.quarantine(notes)
            reach("batch.held")
            for task, reason, detail, _ in judged.holds:
                self._witness.quarantined(task, reason, detail)
        if judged.words:
            await self._tasks.unknown_words(channel.id, judged.words)
            reach("batch.counted")
            for word, (count, _) in judged.words.items():
                self._witness.unknown_word(channel.id, word, count)

    def _judge(
        self,
        channel: Channel,
        batch: Batch,
        reports: Mapping[str, Report],
        now_s: float,
        policy: Policy,
        is_triggered: bool,
        counts: PassCounts,
    ) -> _Judged:
        judged = _Judged()
        odd: dict[str, int] = {}
        for upstream_id, rows in batch.tasks.items():
            report = reports.get(upstream_id, NO_ANSWER)
            if len(rows) > 1 and len({task.user_id for task in rows}) > 1:
                odd["id_of_two_users"] = odd.get("id_of_two_users", 0) + 1
            for task in rows:
                decision = decide(task, report, now_s, policy, is_triggered=is_triggered)
                if type(decision) is Keep:
                    counts.kept += 1
                    if decision.sightings is not None:
                        judged.sightings.append((task, decision.sightings))
                    if decision.reason not in _QUIET_KEEPS:
                        odd[decision.reason] = odd.get(decision.reason, 0) + 1
                elif type(decision) is Advance:
                    judged.advances.append((task, decision))
                    if decision.sightings is not None:
                        judged.sightings.append((task, decision.sightings))
                elif type(decision) is Settle:
                    judged.settles.append((task, decision, report))
                elif type(decision) is GiveUp:
                    if decision.refund:
                        judged.refunds.append((task, decision, report))
                    else:
                        judged.holds.append((task, decision.reason, decision.detail, evidence.evidence_of(report)))
            if report.kind is Kind.SAID and not _is_known(report.word, policy):
                count, example = judged.words.get(report.word, (0, upstream_id))
                judged.words[report.word] = (count + len(rows), example)
        for kind, count in odd.items():
            counts.anomalies[kind] = counts.anomalies.get(kind, 0) + count
            self._witness.anomaly(channel.id, kind, count)
        return judged

    async def _settle(self, channel: Channel, judged: _Judged, now_s: float, counts: PassCounts) -> None:
        book = await self._tasks.prices() if judged.settles else None
        groups: dict[int, str] = {}
        if book is not None:
            wanted = {task.user_id for task, settle, _ in judged.settles if book.needs_group(task)}
            groups = await self._tasks.user_groups(sorted(wanted)) if wanted else {}
        wishes = [settlements.expired(*given_up) for given_up in judged.refunds]
        for task, settle, report in judged.settles:
            if settle.outcome is Outcome.FAILURE:
                wishes.append(settlements.failed(task, settle, report))
            else:
                assert book is not None
                priced = self._priced(channel, task, settle, report, book, groups.get(task.user_id))
                if priced.charged is None or is_plausible(priced.charged, task.reserved):
                    wishes.append(priced)
                else:
                    said = f"usage comes to {priced.charged} where {task.reserved} was reserved"
                    judged.holds.append((task, "charge_implausible", said, priced.evidence))
        if lost := sum(wish.data is None for wish in wishes):
            # The evidence in the ledger has its beginning.
            self._witness.anomaly(channel.id, "result_unstorable", lost)
        admitted, waiting = self._refunds.admit(wishes)
        if waiting:
            self._hold_back(channel, waiting, counts)
            judged.waiting |= {each.task.pk for each in waiting}
        started_s = anyio.current_time()
        fates = await self._tasks.settle(admitted) if admitted else []
        duration_s = anyio.current_time() - started_s
        by_pk = {each.task.pk: each for each in admitted}
        for fate in fates:
            wish = by_pk[fate.task.pk]
            self._refunds.correct(wish, fate)
            self._witness.settled(fate, duration_s)
            if has_flipped(wish, fate):
                self._witness.flipped(fate, wish.outcome)
            if fate.verdict is Verdict.SETTLED:
                counts.settled += 1
                counts.refunded += max(0, fate.refunded)
                counts.charged += fate.charged
                if wish.finished_s:
                    self._witness.detection_lag(max(0.0, now_s + duration_s - wish.finished_s))
            elif fate.verdict is Verdict.QUARANTINED:
                counts.quarantined += 1

    def _hold_back(self, channel: Channel, waiting: Sequence[Settlement], counts: PassCounts) -> None:
        """Leave refunds beyond the limit for a later pass; once until they are through, a person is called."""
        counts.kept += len(waiting)
        counts.refunds_held += len(waiting)
        counts.quota_held += sum(each.task.reserved for each in waiting)
        if not self._is_holding:
            self._is_holding = True
            self._witness.refunds_held(channel.id, self._refunds.limit or 0, self._refunds.given)

    def _priced(
        self,
        channel: Channel,
        task: Task,
        settle: Settle,
        report: Report,
        book: PriceBook,
        user_group: str | None,
    ) -> Settlement:
        charge = book.charge(
            task, settle.usage, settle.usage_unusable, channel_type=channel.type, user_group=user_group
        )
        for note in (charge.source, *charge.notes):
            if note in _COUNTED_NOTES:
                self._witness.anomaly(channel.id, note)
        return settlements.succeeded(task, settle, report, charge)


def _of_open_tasks(lessons: Mapping[int, str], batch: Batch, judged: _Judged) -> list[tuple[Task, str]]:
    """Those tasks that will be asked about again, each with its digest."""
    over = {task.pk for task, _, _ in (*judged.settles, *judged.refunds)} - judged.waiting
    return [(task, lessons[task.pk]) for task in batch.rows() if task.pk in lessons and task.pk not in over]


_COUNTED_NOTES = frozenset({"unpriced", "unusable_usage", "group_ratio_missing"})


def _is_known(word: str, policy: Policy) -> bool:
    words = policy.words
    return word in words.processing or word in words.success or word in words.failed
