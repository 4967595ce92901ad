"""The global request limit as something to wait on: ``core.concurrency.Slots`` decides, this wakes who may go."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import AsyncIterator

import anyio

from poller.core.concurrency import Slots


class Slot:
    """One request's place. Set *timed_out* before leaving when the request ran into its deadline."""

    __slots__ = ("timed_out",)

    def __init__(self) -> None:
        self.timed_out = False


class Gate:
    """Hands out the slots of one replica to its lanes, by the slot rule of the design.

    A lane joins while it has work; leaving gives its share to the others.
    """

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._waiting: dict[int, deque[anyio.Event]] = {}

    def join(self, lane: int) -> None:
        """Count *lane* among those with work; joining twice is once."""
        self._slots.join(lane)
        self._pump()

    def leave(self, lane: int) -> None:
        """Take *lane* out of the sharing; requests that still run keep their slots until they end."""
        self._slots.leave(lane)
        self._waiting.pop(lane, None)
        self._pump()

    @contextlib.asynccontextmanager
    async def slot(self, lane: int) -> AsyncIterator[Slot]:
        """Wait for a slot of *lane*, and hold it for the length of the block. Raises ValueError unless it has joined.

        The lane leaves only when nobody waits here any more.
        """
        await self._enter(lane)
        slot = Slot()
        try:
            yield slot
        finally:
            self._slots.release(lane, timed_out=slot.timed_out)
            self._pump()

    async def _enter(self, lane: int) -> None:
        self._slots.want(lane)
        turn = anyio.Event()
        queue = self._waiting.setdefault(lane, deque())
        queue.append(turn)
        self._pump()
        try:
            await turn.wait()
        except BaseException:
            # Granted and cancelled in the same turn of the loop: the slot is ours to give back.
            if turn.is_set():
                self._slots.release(lane, timed_out=False)
            else:
                queue.remove(turn)
                self._slots.unwant(lane)
            self._pump()
            raise

    def _pump(self) -> None:
        for lane in self._slots.grants():
            self._waiting[lane].popleft().set()
