"""One pass over a channel: its pages in order, their batches asked about side by side."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import anyio
from anyio.abc import TaskGroup

from poller import asking, sending
from poller.batch import Bench, Tasks, Witness
from poller.core import breaker
from poller.core.batches import Batch, Planner
from poller.core.keys import LastPass, is_search_due, seen_keys
from poller.core.model import Channel, Policy, Route, Task
from poller.core.passes import Page, PassCounts, Rules
from poller.errors import AskReason, PollerError
from poller.inquiry import Inquiry
from poller.sending import Sender

_REFUSALS = 3
"""Passes in a row in which an id must be refused alone, its neighbours answered, before it goes to a person: what lasts
for seconds, such as a gateway that refuses while it restarts, says nothing about the id."""
_LONE_FAULT = "refused_alone"


class Source(Tasks, Protocol):
    """Where a lane's tasks and its channel row come from, besides the writes of a batch."""

    async def page(self, channel_id: int, after_pk: int, limit: int) -> Page: ...

    async def last_pk(self, channel_id: int) -> int: ...

    async def channel(self, channel_id: int) -> Channel | None: ...


class Recorder(Witness, asking.Recorder, Protocol):
    """Who counts and logs what a lane does."""

    def passed(self, channel_id: int, counts: PassCounts, duration_s: float) -> None: ...

    def event(self, level: str, name: str, **facts: object) -> None: ...


class Walker(sending.Lane, Protocol):
    """What a pass needs of the lane that walks."""

    refusals: dict[int, tuple[int, float]]
    """By pk, in how many passes in a row the id was refused alone, and when the last of them began."""
    last_pass: LastPass | None
    """Of the passes that came to their end."""

    def walk_again(self, in_s: float, *, is_triggered: bool = False) -> None: ...

    def asking_s(self) -> float: ...


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
        self._row = channel
        # A channel row that is gone leaves its tasks open, judged as not answered until their limit.
        self._channel = channel or Channel(lane.channel_id, 0, "", "", (), rules.base_words, "", askable=False)
        self._rules = rules
        self._source = source
        self._recorder = recorder
        self._is_triggered = is_triggered
        self._policy = rules.policy(self._channel.words)
        self._last = lane.last_pass
        self._number = self._last.number + 1 if self._last else 0
        self._is_searching = is_triggered or not set(self._channel.keys).issubset(self._last.keys if self._last else ())
        self._bench = bench
        self._inquiry = Inquiry(
            self._channel,
            asker=lane.asker,
            bench=bench,
            recorder=recorder,
            policy=self._policy_now,
            lifetime_s=self._policy.lifetime_s,
            is_triggered=is_triggered,
            counts=self.counts,
            now_s=self._now_s,
            is_over=lambda: self._is_over,
            is_search_due=self._is_search_due,
            pass_number=self._number,
            narrowing=lane.narrowing,
        )
        self._sender = Sender(
            lane,
            self._inquiry,
            rules,
            recorder,
            counts=self.counts,
            now_s=self._now_s,
            is_row_changed=self._is_row_changed,
        )
        self._clock_s = 0.0
        """Database time minus our monotonic clock, as of the last page."""
        self._began_s = 0.0
        """When the first page was read."""
        self._ended_at_pk = 0

    def _now_s(self) -> float:
        return self._clock_s + anyio.current_time()

    def _policy_now(self) -> Policy:
        """The policy, its ages as much higher as the database's clock is in doubt."""
        doubt_s, policy = self._rules.clock.doubt_s, self._policy
        return dataclasses.replace(
            policy,
            lifetime_s=policy.lifetime_s + doubt_s,
            not_found_grace_s=policy.not_found_grace_s + doubt_s,
            behind_s=self._rules.clock.behind_s,
            # What is not asked about any more because we stop says nothing against upstream.
            asking_s=0.0 if self._is_over else self._lane.asking_s(),
        )

    def _read_clock(self, now_s: float) -> None:
        clock, own_s = self._rules.clock, anyio.current_time()
        self._clock_s = now_s - own_s
        doubted_s = clock.doubt_s
        if clock.read(now_s, own_s, self._policy.lifetime_s) != doubted_s and not doubted_s:
            self._recorder.event(
                "error",
                "database_clock_leapt",
                channel_id=self._lane.channel_id,
                ahead_s=round(clock.doubt_s),
                advice="deadlines go by our own clock for one lifetime; set the clocks right, the database's above all",
            )

    @property
    def _is_over(self) -> bool:
        return self._sender.is_over

    async def run(self) -> None:
        """Walk to the end, or until the lane must stop. Raises Defer when the database went away.

        What is in flight when that happens is still brought to its end.
        """
        turns = self._lane.turns
        if self._is_triggered:
            turns.forget()
        async with anyio.create_task_group() as group:
            try:
                await self._feed(group)
            except PollerError as failure:
                self._sender.failure = self._sender.failure or failure
        if self._is_over:
            turns.forget()
        if self._sender.failure is not None:
            raise self._sender.failure
        await self._hold_refused()
        if self._sender.has_new_row:
            self._lane.walk_again(0.0, is_triggered=self._is_triggered)
        if not self._is_over:
            if turns.has_skipped and self._lane.asker.is_probing:
                self._lane.walk_again(max(self._lane.asker.hold_s(), breaker.LAST_DELAY_S))
            turns.end_pass()
            self._lane.narrowing.end_pass()
            self._bench.end_pass(self._lane.channel_id, self.counts)
            seen = seen_keys(self._channel.keys, self._last)
            count = len(self._channel.keys)
            self._lane.last_pass = LastPass(self._number, self._began_s, self._ended_at_pk, seen, count)

    def _is_search_due(self, task: Task) -> bool:
        last = self._last
        return last is None or self._is_searching or is_search_due(task, self._began_s, self._policy_now(), last)

    async def _is_row_changed(self) -> bool:
        return await self._source.channel(self._lane.channel_id) != self._row

    async def _feed(self, group: TaskGroup) -> None:
        planner = Planner(
            self._channel, self._rules.batch_size, self._rules.page_size, self._inquiry.ring, self._lane.narrowing
        )
        channel_id = self._lane.channel_id
        after_pk, ends_at, is_last = 0, None, False
        await self._bench.begin_pass(channel_id)
        while not is_last and not self._is_over:
            page = await self._source.page(channel_id, after_pk, self._rules.page_size)
            self._read_clock(page.now_s)
            self._began_s = self._began_s or self._now_s()
            if ends_at is None and not page.is_last:
                ends_at = await self._source.last_pk(channel_id)
            after_pk = page.last_pk
            # What is submitted from now on waits for the next pass, or the pass might never get back to the front.
            is_last = page.is_last or (ends_at is not None and after_pk >= ends_at)
            unaskable: list[Task] = []
            for task in page.tasks:
                if self._channel.askable and task.upstream_id:
                    for batch in planner.add(task):
                        await self._sender.send(group, batch)
                else:
                    unaskable.append(task)
            await self._conclude_unasked(unaskable)
        for batch in planner.rest():
            await self._sender.send(group, batch)
        self._ended_at_pk = after_pk

    async def _hold_refused(self) -> None:
        """Leave to a person the ids that upstream refused alone, again and again, while it answered about others."""
        refusals = {}
        held = []
        for pk, (task, route, how) in self._inquiry.refused.items():
            if self._inquiry.is_answered(route):
                count, counted_s = self._lane.refusals.get(pk, (0, 0.0))
                # A pass may follow another one early; half an interval, because their paces differ by a little.
                if not self._is_triggered and self._began_s - counted_s >= self._rules.interval_s / 2:
                    count, counted_s = count + 1, self._began_s
                refusals[pk] = (count, counted_s)
                if count >= _REFUSALS:
                    held.append((task, _LONE_FAULT, f"upstream refuses this id: {how}"))
        self._lane.refusals = refusals
        if held:
            self.counts.quarantined += await self._source.quarantine(held)
            for task, reason, detail in held:
                self._recorder.quarantined(task, reason, detail)

    async def _conclude_unasked(self, tasks: list[Task]) -> None:
        """Tasks that nobody can be asked about: no channel, no usable address or key, no upstream id."""
        if not tasks:
            return
        self.counts.failed_requests += 1
        self._recorder.asked(self._lane.channel_id, "", len(tasks), 0.0, AskReason.NO_CHANNEL)
        batch = Batch(Route("", None, None, ""), {str(task.pk): [task] for task in tasks})
        await self._inquiry.conclude(batch, {}, self._now_s())
