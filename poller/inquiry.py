"""One batch, asked about until all is known that can be known of it in this pass.

Ordinarily that is one ask. A batch refused as a whole is asked about in halves, so that one bad id spoils no other; ids
that an answer about others leaves out are asked about again without those, because some upstreams cut long lists, at
whichever end: absent is what an answer tells nothing beside. Some tell nothing at all when too many are asked about, so
past its deadline an id is absent only by an ask about it alone, or about no more ids of its model than upstream told of
any in this pass. What is past its deadline is asked about over a connection of its own: on a used one there may be an
answer too many, which says nothing, or what was said to an older question. On a channel with several keys, what one key
does not know is asked about with the others, or with one of them where a search is not due.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from poller.asking import Asker
from poller.batch import Bench
from poller.core.batches import Batch, Narrowing
from poller.core.keys import KeyRing, is_unknown, weaker
from poller.core.model import NO_ANSWER, Channel, Kind, Policy, Report, Route, Secret, Task
from poller.core.passes import PassCounts
from poller.crashpoints import reach
from poller.errors import AskFailed, AskReason, PollerError

_CRASHED = 500
"""The HTTP status of an upstream that broke over a request; it may be over one of its ids."""
_ONE_ID_MAY_DO = frozenset({AskReason.NETWORK, AskReason.SERVER_ERROR, AskReason.TIMEOUT})
"""What an upstream that stumbles over one id looks like, if it does not say which."""
_REMEMBERED = 1000
"""Refused ids and routes that one pass keeps in mind: beyond that, upstream has another trouble than bad ids."""


class Recorder(Protocol):
    """Who counts and logs what was odd about an answer."""

    def anomaly(self, channel_id: int, kind: str, count: int = 1) -> None: ...

    def event(self, level: str, name: str, **facts: object) -> None: ...


class _Asked(NamedTuple):
    """A batch that is due to be asked about, and what other keys said of its ids before."""

    batch: Batch
    keys: tuple[Secret, ...] = ()
    said: Mapping[str, Report] = {}
    first_s: float | None = None
    """When the first of those keys was asked."""
    is_search: bool = True
    """All keys are asked; otherwise this one is the last of them on this pass."""
    is_doubted: bool = False
    """Upstream told nothing of these and others, which may be because they were many."""


class Inquiry:
    """The asks of one pass over *channel*. *now_s* tells the database's time, *policy* the rules in force, *lifetime_s*
    the deadline by an undoubted clock, and *is_over* that nothing new may begin."""

    def __init__(
        self,
        channel: Channel,
        *,
        asker: Asker,
        bench: Bench,
        recorder: Recorder,
        policy: Callable[[], Policy],
        lifetime_s: float,
        is_triggered: bool,
        counts: PassCounts,
        now_s: Callable[[], float],
        is_over: Callable[[], bool],
        is_search_due: Callable[[Task], bool] = lambda task: True,
        pass_number: int = 0,
        narrowing: Narrowing,
    ) -> None:
        self.ring = KeyRing(channel.keys)
        self.refused: dict[int, tuple[Task, Route, str]] = {}
        """Tasks whose id alone was refused, by pk, each with its route and how upstream refused it."""
        self._answered: set[Route] = set()
        self._largest_told: dict[str, int] = {}
        """Ids in the largest ask on which upstream told something of any of them, by model."""
        self._channel = channel
        self._asker = asker
        self._bench = bench
        self._recorder = recorder
        self._policy = policy
        self._lifetime_s = lifetime_s
        self._is_triggered = is_triggered
        self._counts = counts
        self._now_s = now_s
        self._is_over = is_over
        self._is_search_due = is_search_due
        self._pass_number = pass_number
        self._narrowing = narrowing
        asker.allow_split()

    async def ask(self, batch: Batch, *, is_probe: bool = False) -> None:
        """Ask about *batch* and carry out what is decided. Raises Defer when it cannot be written down."""
        due = [_Asked(batch)]
        is_first = True
        while due:
            asked = due.pop()
            if is_first or not (self._is_over() or self._asker.hold_s() > 0):
                due += await self._ask(asked, is_probe=is_probe and is_first)
            else:
                await self.conclude(asked.batch, {}, self._now_s())
            is_first = False

    def is_answered(self, route: Route) -> bool:
        """Whether upstream answered asks about other ids of *route* in this pass."""
        return route in self._answered

    def _is_any_overdue(self, batch: Batch) -> bool:
        """Whether silence, or a word for not done yet, may end one of these: by the clock alone, doubts left out."""
        now_s = self._now_s()
        return any(now_s - task.submitted_s >= self._lifetime_s for task in batch.rows())

    def _is_batch_fault(self, failed: AskFailed, route: Route) -> bool:
        """Whether the request as a whole was refused, so that another one with fewer of its ids may fare better."""
        return failed.is_batch_fault or (failed.http_status == _CRASHED and self.is_answered(route))

    async def _ask(self, asked: _Asked, *, is_probe: bool) -> Sequence[_Asked]:
        """One ask and its conclusions; what is left to be asked about."""
        batch = asked.batch
        # Evidence dates from when the first ask began: an answer to an older question proves nothing about a deadline.
        asked_s = self._now_s() if asked.first_s is None else asked.first_s
        key, is_alone = batch.route.key, len(batch.tasks) == 1
        assert key is not None
        if not self.ring.may_ask(key):
            return await self._sort(asked, {}, asked_s)
        has_other_keys = (
            self.ring.is_multi
            and self.ring.next((*asked.keys, key)) is not None
            and any(task.key is None for task in batch.rows())
        )

        def may_split(failed: AskFailed) -> bool:
            return not is_alone and self._asker.splits_left > 0 and self._is_batch_fault(failed, batch.route)

        def is_excused(failed: AskFailed) -> bool:
            return may_split(failed) or (failed.reason is AskReason.AUTH and has_other_keys)

        try:
            answer = await self._asker.ask(
                self._channel,
                batch,
                is_probe=is_probe,
                needs_own_connection=self._is_any_overdue(batch),
                is_excused=is_excused,
            )
        except AskFailed as failed:
            self._counts.failed_requests += 1
            if failed.reason is AskReason.AUTH and self.ring.is_multi:
                if batch.route.client_token is None:  # else it may be the client that is refused
                    self.ring.refuse(key)
                return await self._sort(asked, {}, asked_s)
            if may_split(failed):
                self._asker.splits_left -= 1
                return [asked._replace(batch=half) for half in reversed(batch.halves())]
            if is_alone and self._is_batch_fault(failed, batch.route) and len(self.refused) < _REMEMBERED:
                self.refused |= {task.pk: (task, batch.route, str(failed)) for task in batch.rows()}
            if failed.reason in _ONE_ID_MAY_DO:
                self._narrowing.failed(batch, (task.pk for task in batch.rows()))
            await self.conclude(batch, {}, asked_s)
            return ()
        reach("walk.answered")
        self._narrowing.answered(task.pk for task in batch.rows())
        if len(self._answered) < _REMEMBERED:
            self._answered.add(batch.route)
        self._counts.requests += 1
        self._counts.asked += len(batch.tasks)
        for kind, count in (("stranger", answer.strangers), ("unreadable_id", answer.unreadable)):
            if count:
                self._recorder.anomaly(self._channel.id, kind, count)
        told, untold = batch.parted(lambda name, _: answer.reports[name].kind is not Kind.ABSENT)
        model = batch.route.model
        largest_told = self._largest_told.get(model, 0)
        if told.tasks:
            # What was meant for another ask, names nobody or cannot be read shows no will to tell of so many.
            if any(answer.reports[name].kind is Kind.SAID for name in told.tasks):
                if asked.is_doubted:
                    self._recorder.anomaly(self._channel.id, "silent_about_many")
                self._largest_told[model] = max(largest_told, len(batch.tasks))
            left = await self._sort(asked._replace(batch=told), answer.reports, asked_s)
            return [*left, asked._replace(batch=untold)] if untold.tasks else left
        lifetime_s = self._policy().lifetime_s
        overdue, young = untold.parted(lambda _, task: asked_s - task.submitted_s >= lifetime_s)
        if is_alone or len(batch.tasks) <= largest_told or not overdue.tasks:
            return await self._sort(asked, answer.reports, asked_s)
        left = await self._sort(asked._replace(batch=young), answer.reports, asked_s) if young.tasks else ()
        parts = overdue.halves() if len(overdue.tasks) > 1 else (overdue,)
        return [*left, *(asked._replace(batch=part, is_doubted=True) for part in reversed(parts))]

    async def _sort(self, asked: _Asked, reports: Mapping[str, Report], asked_s: float) -> Sequence[_Asked]:
        """Conclude what *reports* settle; what another key may know is left to be asked about with that key."""
        batch, ring, key = asked.batch, self.ring, asked.batch.route.key
        if not ring.is_multi or key is None:
            await self.conclude(batch, reports, asked_s)
            return ()
        unknown, known = batch.parted(lambda name, task: task.key is None and is_unknown(reports.get(name, NO_ANSWER)))
        if known.tasks:
            lessons = {task.pk: digest for task in known.rows() if (digest := ring.lesson(task, key))}
            await self.conclude(known, reports, asked_s, lessons)
        if not unknown.tasks:
            return ()
        keys = (*asked.keys, key)
        said = {}
        for name in unknown.tasks:
            report = reports.get(name, NO_ANSWER)
            said[name] = weaker(asked.said.get(name, report), report)
        parts = [(unknown, asked.is_search)]
        if not asked.keys:
            due, resting = unknown.parted(lambda name, task: self._is_search_due(task))
            parts = [(due, True), (resting, False)]
        left = []
        for part, is_search in parts:
            following = ring.next(keys) if is_search else None if asked.keys else ring.turn(self._pass_number, keys)
            if part.tasks and following is not None:
                left.append(_Asked(part.with_key(following), keys, said, asked_s, is_search))
            elif part.tasks:
                # A key that was not asked, refused or left out on this pass, may be the one that knows: then nobody
                # said anything.
                await self.conclude(part, said if len(keys) == len(ring.keys) else {}, asked_s)
        return left

    async def conclude(
        self, batch: Batch, reports: Mapping[str, Report], asked_s: float, lessons: Mapping[int, str] | None = None
    ) -> None:
        """Have *batch* judged by *reports* and the judgement written down.

        A task that our own code cannot judge is said, stays open, and stops none of its neighbours.
        """
        try:
            await self._bench.conclude(
                self._channel,
                batch,
                reports,
                now_s=asked_s,
                policy=self._policy(),
                is_triggered=self._is_triggered,
                counts=self._counts,
                lessons=lessons or {},
                waited_s=self._now_s() - asked_s,
            )
        except PollerError:
            raise
        except Exception as bug:  # noqa: BLE001 - a supervision point
            if len(batch.tasks) > 1:
                for half in batch.halves():
                    await self.conclude(half, reports, asked_s, lessons)
                return
            self._counts.failed_requests += 1
            pks = [task.pk for task in batch.rows()]
            self._recorder.event("error", "task_failed", channel_id=self._channel.id, task_pks=pks, exc_info=bug)
