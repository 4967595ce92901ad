"""One channel's loop: page → batches → ask → decide → settle → pace.

A lane walks its active tasks in pk order, asks about every one of them once an interval, and starts again at the
front. It writes nothing to say that it asked. Whether it alone walks the channel is a matter of efficiency: two lanes
on one channel waste requests, and the settlement keeps the money right.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Protocol

import anyio

from poller.asking import Asker, Retrying, Upstream
from poller.batch import Bench
from poller.core.batches import Narrowing, Turns
from poller.core.keys import LastPass
from poller.core.model import Channel
from poller.core.passes import PassCounts, Rules
from poller.core.schedule import backoff_s, is_said
from poller.crashpoints import reach
from poller.errors import Defer
from poller.gate import Gate
from poller.walk import Recorder, Source, Walk

_BACKOFF_FIRST_S, _BACKOFF_LAST_S = 0.5, 15.0
_BREAK_S = 600.0
"""Longer than any wait for an upstream: what lasts longer was a pause, an outage of our own, or a frozen process."""


class Leases(Protocol):
    """The lane's own row: its pace and its breaker outlive the replica that holds it."""

    async def start_pass(self, channel_id: int) -> float | None: ...

    async def end_pass(self, channel_id: int, counts: dict[str, Any]) -> None: ...

    async def save_breaker(
        self, channel_id: int, state: str, until_in_s: float | None, failures: int, concurrency: int
    ) -> None: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Tools:
    """What a lane works with; wired by the daemon."""

    source: Source
    leases: Leases
    gate: Gate
    recorder: Recorder
    open_client: Callable[[Channel], Upstream]
    retrying: Retrying


class Lane:
    """The work of one channel in this replica. ``run`` walks it until ``leave`` is called or it is cancelled."""

    def __init__(self, channel_id: int, rules: Rules, tools: Tools) -> None:
        self.channel_id = channel_id
        self.is_paused = False
        self.has_work = True
        self.last_counts = PassCounts()
        self.refusals: dict[int, tuple[int, float]] = {}
        self.last_pass: LastPass | None = None
        self.narrowing = Narrowing()
        self.turns = Turns()
        self.asker = Asker(
            channel_id,
            gate=tools.gate,
            recorder=tools.recorder,
            open_client=tools.open_client,
            retrying=tools.retrying,
            max_in_flight=rules.max_in_flight,
            batch_size=rules.batch_size,
        )
        self._rules = rules
        self._tools = tools
        self._bench = Bench(tools.source, tools.recorder, rules.max_refund_per_hour)
        self._due_at = anyio.current_time()
        self._asking_since = self._asked_at = -math.inf
        self._is_leaving = False
        self._is_triggered = False
        self._wake = anyio.Event()

    # -- what the daemon tells it ------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Take nothing new; ``run`` returns once what was asked is settled."""
        self._is_leaving = True
        self.asker.stop()
        self._wake.set()

    def trigger(self) -> None:
        """Walk everything now, or once more when a pass is under way; several triggers at once count as one."""
        self._is_triggered = True
        self.asker.forgive()
        self._wake.set()

    def set_due(self, in_s: float) -> None:
        """Keep the pace of an earlier holder: the next pass is due in *in_s* seconds."""
        self._due_at = anyio.current_time() + in_s

    def walk_again(self, in_s: float, *, is_triggered: bool = False) -> None:
        """Start the next pass in *in_s* seconds, if it is not due before: this one left something undone."""
        self._due_at = min(self._due_at, anyio.current_time() + in_s)
        self._is_triggered = self._is_triggered or is_triggered

    def set_flags(self, *, is_paused: bool, has_work: bool) -> None:
        """What the lane's row says now."""
        if (self.is_paused, self.has_work) != (is_paused, has_work):
            self.is_paused, self.has_work = is_paused, has_work
            self._wake.set()

    @property
    def must_stop(self) -> bool:
        """Nothing new may be asked: leaving, or paused."""
        return self._is_leaving or self.is_paused

    def asking_s(self) -> float:
        """For how long upstream has been asked by now, told at every answer and failure; a break begins anew."""
        now = anyio.current_time()
        if now - self._asked_at > max(_BREAK_S, 2 * self._rules.interval_s):
            self._asking_since = now
        self._asked_at = now
        return now - self._asking_since

    # -- the loop ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Walk pass after pass. Database outages are waited out with capped backoff; nothing is lost meanwhile."""
        outages = 0
        try:
            while not self._is_leaving:
                if not self._is_due():
                    is_idle = self.is_paused or not self.has_work
                    await self._wait(None if is_idle else self._due_at - anyio.current_time())
                    continue
                try:
                    await self.walk()
                    outages = 0
                except Defer as away:
                    outages += 1
                    delay_s = backoff_s(outages, _BACKOFF_FIRST_S, _BACKOFF_LAST_S)
                    if is_said(outages):
                        facts = {"channel_id": self.channel_id, "reason": str(away), "retry_in": delay_s}
                        self._tools.recorder.event("warning", "pass_deferred", **facts)
                    self._due_at = anyio.current_time()
                    await self.wait_out(delay_s)
        finally:
            self._tools.gate.leave(self.channel_id)
            await self.asker.close()

    def _is_due(self) -> bool:
        if self.is_paused or not self.has_work:
            return False
        return self._is_triggered or anyio.current_time() >= self._due_at

    async def _wait(self, seconds: float | None) -> None:
        """Until somebody tells the lane something, or *seconds* have passed."""
        if not self._wake.is_set():
            with anyio.move_on_after(seconds):
                await self._wake.wait()
        self._wake = anyio.Event()

    async def wait_out(self, seconds: float) -> None:
        """A delay that only a stop or a pause cuts short."""
        give_up = anyio.current_time() + seconds
        while not self.must_stop and (left := give_up - anyio.current_time()) > 0:
            await self._wait(left)

    async def walk(self) -> PassCounts:
        """One pass over everything active. Raises Defer when the database is away."""
        started_at = anyio.current_time()
        is_triggered, self._is_triggered = self._is_triggered, False
        if await self._tools.leases.start_pass(self.channel_id) is None:
            self.leave()
            return PassCounts()
        reach("lane.started")
        self._due_at = started_at + self._rules.interval_s
        channel = await self._tools.source.channel(self.channel_id)
        walk = Walk(self, channel, self._rules, self._tools.source, self._tools.recorder, self._bench, is_triggered)
        self._tools.gate.join(self.channel_id)
        try:
            await walk.run()
        finally:
            self._tools.gate.leave(self.channel_id)
        await self.save_breaker()
        self.last_counts = walk.counts
        self._tools.recorder.passed(self.channel_id, walk.counts, anyio.current_time() - started_at)
        await self._tools.leases.end_pass(self.channel_id, dataclasses.asdict(walk.counts))
        reach("lane.ended")
        return walk.counts

    async def wait_for_upstream(self) -> None:
        """Wait until upstream may be asked again; a trigger, a pause or a stop ends the wait."""
        await self.save_breaker()
        while not self.must_stop and (hold_s := self.asker.hold_s()) > 0:
            await self._wait(hold_s)

    async def save_breaker(self) -> None:
        """Keep breaker, wait and limit for whoever holds the lane next, when there is something new about them."""
        if self.asker.has_news:
            self.asker.has_news = False
            breaker = self.asker.breaker
            await self._tools.leases.save_breaker(
                self.channel_id, breaker.state, self.asker.hold_s() or None, breaker.failures, self.asker.limit
            )
