"""One pass over a channel: its pages in order, their batches asked about side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Protocol

import anyio
from anyio.abc import TaskGroup

from poller import asking
from poller.asking import Asker
from poller.batch import Bench, Tasks, Witness
from poller.core.batches import Batch, Planner
from poller.core.model import Channel, Policy, Report, Route, StatusWords, Task
from poller.core.passes import Page, PassCounts
from poller.crashpoints import reach
from poller.errors import AskFailed, AskReason, Defer

_ROOM_FOR_SETTLING = 4
"""Batches that may be settling while the lane's requests go on; more would only queue before the database."""
_SPLITS = 16
"""Splits of refused batches that one pass may begin without a good answer: enough to find a bad id in 1 000, far too
few for a storm against an upstream that refuses everything."""
_LONE_FAULT = "refused_alone"


class Source(Tasks, Protocol):
    """Where a lane's tasks and its channel row come from, besides the writes of a batch."""

    async def page(self, channel_id: int, after_pk: int, limit: int) -> Page: ...

    async def channel(self, channel_id: int) -> Channel | None: ...


class Recorder(Witness, asking.Recorder, Protocol):
    """Who counts and logs what a lane does."""

    def passed(self, channel_id: int, counts: PassCounts, duration_s: float) -> None: ...

    def event(self, level: str, name: str, **facts: object) -> None: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Rules:
    """What the settings say about every lane."""

    policy: Callable[[StatusWords], Policy]
    base_words: StatusWords
    interval_s: float
    batch_size: int
    page_size: int
    max_in_flight: int
    is_patient: bool = True
    """Wait for an open breaker within a pass; a one-shot pass ends instead."""


class Walker(Protocol):
    """What a pass needs of the lane that walks."""

    channel_id: int
    asker: Asker

    @property
    def must_stop(self) -> bool: ...

    def leave(self) -> None: ...

    async def wait_for_upstream(self) -> None: ...


class Walk:
    """One pass: the pages in order, their batches side by side."""

    def __init__(
        self,
        lane: Walker,
        channel: Channel | None,
        rules: Rules,
        source: Source,
        recorder: Recorder,
        bench: Bench,
        is_triggered: bool,
    ) -> None:
        self.counts = PassCounts()
        self._lane = lane
        # A channel row that is gone leaves its tasks open, judged as not answered until their limit.
        self._channel = channel or Channel(lane.channel_id, 0, "", "", (), rules.base_words, "", askable=False)
        self._rules = rules
        self._source = source
        self._recorder = recorder
        self._bench = bench
        self._policy = rules.policy(self._channel.words)
        self._is_triggered = is_triggered
        self._workers = 0
        self._worker_done = anyio.Event()
        self._splits = _SPLITS
        self._failure: Defer | None = None
        self._clock_s = 0.0
        """Database time minus our monotonic clock, as of the last page."""

    def _now_s(self) -> float:
        return self._clock_s + anyio.current_time()

    @property
    def _is_over(self) -> bool:
        return self._lane.must_stop or self._failure is not None

    async def run(self) -> None:
        """Walk to the end, or until the lane must stop. Raises Defer when the database went away."""
        planner = Planner(self._channel, self._rules.batch_size, self._rules.page_size)
        after_pk, is_last = 0, False
        async with anyio.create_task_group() as group:
            while not is_last and not self._is_over:
                page = await self._source.page(self._lane.channel_id, after_pk, self._rules.page_size)
                after_pk, is_last = page.last_pk, page.is_last
                self._clock_s = page.now_s - anyio.current_time()
                unaskable: list[Task] = []
                for task in page.tasks:
                    if self._channel.askable and task.upstream_id:
                        for batch in planner.add(task):
                            await self._send(group, batch)
                    else:
                        unaskable.append(task)
                await self._conclude_unasked(unaskable)
            for batch in planner.rest():
                await self._send(group, batch)
        if self._failure is not None:
            raise self._failure

    async def _send(self, group: TaskGroup, batch: Batch) -> None:
        """Hand a batch to a worker when there is room; while upstream is in doubt, one probe at a time."""
        if self._is_over:
            return
        asker = self._lane.asker
        if asker.is_probing or asker.hold_s() > 0:
            if not self._rules.is_patient:
                self.counts.failed_requests += 1
                self._lane.leave()
                return
            await self._lane.wait_for_upstream()
            if not self._is_over:
                asker.begin_probe()
                self._workers += 1
                await self._work(batch)
            return
        while self._workers >= asker.limit + _ROOM_FOR_SETTLING:
            self._worker_done = anyio.Event()
            await self._worker_done.wait()
        if not self._is_over:
            self._workers += 1
            group.start_soon(self._work, batch)

    async def _work(self, batch: Batch) -> None:
        try:
            await self._ask(batch)
        except Defer as away:
            self._failure = away
        finally:
            self._workers -= 1
            self._worker_done.set()

    async def _ask(self, batch: Batch) -> AskFailed | None:
        """Ask and conclude; what a batch refused as a whole hides is found by asking about its halves."""
        # Evidence dates from when the ask began: an answer to an older question proves nothing about a deadline.
        asked_s = self._now_s()
        try:
            answer = await self._lane.asker.ask(self._channel, batch)
            reach("walk.answered")
        except AskFailed as failed:
            self.counts.failed_requests += 1
            if failed.is_batch_fault and len(batch.tasks) > 1 and self._splits > 0 and not self._is_over:
                self._splits -= 1
                return await self._ask_halves(batch)
            await self._conclude(batch, {}, asked_s)
            return failed
        self._splits = min(_SPLITS, self._splits + 1)
        self.counts.requests += 1
        self.counts.asked += len(batch.tasks)
        for kind, count in (("stranger", answer.strangers), ("unreadable_id", answer.unreadable)):
            if count:
                self._recorder.anomaly(self._lane.channel_id, kind, count)
        await self._conclude(batch, answer.reports, asked_s)
        return None

    async def _ask_halves(self, batch: Batch) -> AskFailed | None:
        halves = batch.halves()
        failures = [await self._ask(half) for half in halves]
        for half, failed, sibling in zip(halves, failures, reversed(failures), strict=True):
            # Alone and refused while its neighbours are answered: the id itself is what upstream cannot take.
            if failed is not None and failed.is_batch_fault and len(half.tasks) == 1 and sibling is None:
                held = [(task, _LONE_FAULT, f"upstream refuses this id: {failed}") for task in half.rows()]
                self.counts.quarantined += await self._source.quarantine(held)
                for task, reason, detail in held:
                    self._recorder.quarantined(task, reason, detail)
        return None if None in failures else failures[0]

    async def _conclude(self, batch: Batch, reports: Mapping[str, Report], asked_s: float) -> None:
        await self._bench.conclude(
            self._channel,
            batch,
            reports,
            now_s=asked_s,
            policy=self._policy,
            is_triggered=self._is_triggered,
            counts=self.counts,
        )

    async def _conclude_unasked(self, tasks: list[Task]) -> None:
        """Tasks that nobody can be asked about: no channel, no usable address or key, no upstream id."""
        if not tasks:
            return
        self.counts.failed_requests += 1
        self._recorder.asked(self._lane.channel_id, "", len(tasks), 0.0, AskReason.NO_CHANNEL)
        batch = Batch(Route("", None, None, ""), {str(task.pk): [task] for task in tasks})
        await self._conclude(batch, {}, self._now_s())
