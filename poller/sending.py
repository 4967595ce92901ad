"""How the batches of a pass go out: side by side where upstream answers, one probe at a time where it is in doubt."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import anyio
from anyio.abc import TaskGroup

from poller.asking import Asker
from poller.core.batches import Batch, Narrowing, Turns
from poller.core.passes import PassCounts, Rules
from poller.errors import DatabaseAway, Defer, PollerError, Stop
from poller.inquiry import Inquiry

_ROOM_FOR_SETTLING = 4
"""Batches that may be settling while the lane's requests go on; more would only queue before the database."""


class Recorder(Protocol):
    """Who logs what became of a batch."""

    def event(self, level: str, name: str, **facts: object) -> None: ...


class Lane(Protocol):
    """What sending needs of the lane that walks."""

    channel_id: int
    asker: Asker
    narrowing: Narrowing
    turns: Turns

    @property
    def must_stop(self) -> bool: ...

    def leave(self) -> None: ...

    async def wait_for_upstream(self) -> None: ...

    async def save_breaker(self) -> None: ...


class Sender:
    """The asks of one pass under way. *is_row_changed* looks whether the channel's row is another one by now."""

    def __init__(
        self,
        lane: Lane,
        inquiry: Inquiry,
        rules: Rules,
        recorder: Recorder,
        *,
        counts: PassCounts,
        now_s: Callable[[], float],
        is_row_changed: Callable[[], Awaitable[bool]],
    ) -> None:
        self.failure: PollerError | None = None
        """Why the pass cannot go on."""
        self.has_new_row = False
        """The channel's row changed while upstream was in doubt, which may be why it was: the pass shall begin anew."""
        self._lane = lane
        self._inquiry = inquiry
        self._rules = rules
        self._recorder = recorder
        self._counts = counts
        self._now_s = now_s
        self._is_row_changed = is_row_changed
        self._workers = 0
        self._worker_done = anyio.Event()

    @property
    def is_over(self) -> bool:
        """Nothing new may be asked in this pass."""
        return self._lane.must_stop or self.has_new_row or self.failure is not None

    async def send(self, group: TaskGroup, batch: Batch) -> None:
        """Hand a batch to workers, in parts that upstream can answer, when there is room for them.

        While upstream is in doubt one probe goes at a time, and nothing else: with the first part of a batch whose turn
        it is. What is passed over counts as not answered. Raises Defer when that cannot be written down.
        """
        asker = self._lane.asker
        rest: Batch | None = batch
        while rest is not None and not self.is_over:
            if asker.is_probing or asker.hold_s() > 0:
                if not self._rules.is_patient:
                    self._counts.failed_requests += 1
                    self._lane.leave()
                    return
                if rest is not batch or not self._is_up(batch):
                    await self._inquiry.conclude(rest, {}, self._now_s())
                    return
                await self._lane.wait_for_upstream()
                if await self._is_row_changed():
                    self.has_new_row = True
                elif not self.is_over and not asker.hold_s():
                    rest = await self._probe(batch)
                continue
            while self._workers >= asker.limit + _ROOM_FOR_SETTLING:
                self._worker_done = anyio.Event()
                await self._worker_done.wait()
            if not (self.is_over or asker.is_probing or asker.hold_s()):
                part, rest = rest.cut(asker.size.now)
                self._workers += 1
                group.start_soon(self._work, part, False)

    def _is_up(self, batch: Batch) -> bool:
        most, first_pk, _ = self._place(batch)
        if not self._lane.asker.is_held(batch.route) and self._lane.turns.is_up(batch.route, most, first_pk):
            return True
        self._lane.narrowing.passed_over()
        return False

    def _place(self, batch: Batch) -> tuple[int | None, int, int]:
        """How many ids the batch may hold at most, and its first and last pk."""
        pks = [task.pk for task in batch.rows()]
        return self._lane.narrowing.most(pks[0]), pks[0], pks[-1]

    async def _probe(self, batch: Batch) -> Batch | None:
        """Ask about the first part alone; returns the rest."""
        asker, turns = self._lane.asker, self._lane.turns
        most, _, last_pk = self._place(batch)
        part, rest = batch.cut(asker.size.now)
        self._workers += 1
        asker.begin_probe()
        await self._work(part, True)
        if asker.is_probing:
            turns.failed(batch.route, most, last_pk)
        else:
            turns.forget()
        await self._lane.save_breaker()
        return rest

    async def _work(self, batch: Batch, is_probe: bool) -> None:
        try:
            await self._inquiry.ask(batch, is_probe=is_probe)
        except (DatabaseAway, Stop) as failure:
            self.failure = self.failure or failure
        except Defer as refused:
            # The database is there and takes the work of others: what is in this batch is due on the next pass.
            self._say_failed(batch, "warning", reason=str(refused))
        except Exception as bug:  # noqa: BLE001 - a supervision point
            self._say_failed(batch, "error", exc_info=bug)
        finally:
            self._workers -= 1
            self._worker_done.set()

    def _say_failed(self, batch: Batch, level: str, **facts: object) -> None:
        self._counts.failed_requests += 1
        self._recorder.event(
            level,
            "batch_failed",
            channel_id=self._lane.channel_id,
            model=batch.route.model,
            task_count=len(batch.tasks),
            **facts,
        )
