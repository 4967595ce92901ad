"""What settling left in the outbox, handed to the systems that must learn of it: one loop a kind.

Nothing of this may stop a settlement: what cannot be handed over stays in the database, visible, and is tried again.
Claims are short leases, so several replicas share the work and one that dies leaves nothing behind for long.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Final, Protocol

import anyio

from poller.core.delivery import CACHES, DONE, Entry, Fate, Receipt, Waiting
from poller.core.schedule import backoff_s
from poller.crashpoints import reach
from poller.errors import Defer, PollerError

_AT_ONCE: Final = 100
"""Entries a turn, so that a turn stays short whatever has piled up."""
_CLAIM_S: Final = 60.0
"""Longer than any courier may take over a turn's entries."""
_CLOSED_S: Final = 8.0
"""For a turn that may not be repeated, from its claim to its conclusion."""
_PACE_S: Final = 0.5
_FIRST_S: Final = 0.5
_LAST_S: Final = 15.0
_LAST_REFUSED_S: Final = 3600.0
_DETAIL_LENGTH: Final = 500
_GAUGE_PACE_S: Final = 15.0


class Outbox(Protocol):
    """The rows that wait, and who took them."""

    async def is_due(self, kind: str) -> bool: ...

    async def claim(self, kind: str, limit: int, claim_s: float, floor: int | None) -> Sequence[Entry]: ...

    async def remove(self, ids: Sequence[int]) -> None: ...

    async def forget(self, kinds: Sequence[str], older_s: float) -> None: ...

    async def put_back(self, ids: Sequence[int], reason: str, first_s: float, last_s: float) -> None: ...

    async def waiting(self) -> Waiting: ...


class Courier(Protocol):
    """Who hands over entries of one kind."""

    @property
    def may_repeat(self) -> bool:
        """Whether handing over an entry twice does no more than once."""
        ...

    async def ready(self) -> int | None:
        """See that the other side answers. Returns what is to be kept with entries that are now claimed first."""
        ...

    async def deliver(self, entries: Sequence[Entry]) -> Sequence[Receipt]:
        """Hand over *entries*; one receipt each. Raises PollerError when surely none of them was."""
        ...


class Recorder(Protocol):
    """Who counts and logs what was handed over."""

    def outbox(self, depth: int, oldest_s: float) -> None: ...

    def delivered(self, kind: str, count: int) -> None: ...

    def delivery_failed(self, kind: str, reason: str, count: int = 1) -> None: ...


class Deliverer:
    """The loop of one *kind*: ``turn`` is for ``supervised``, ``drain`` for a process that ends."""

    def __init__(self, kind: str, outbox: Outbox, courier: Courier, recorder: Recorder) -> None:
        self.kind = kind
        self._outbox = outbox
        self._courier = courier
        self._recorder = recorder
        self._failures = 0

    async def turn(self) -> float:
        """Hand over some entries; returns the seconds until the next call.

        Raises Defer when the outbox itself cannot be reached.
        """
        count, is_well = await self._some()
        if not is_well:
            self._failures += 1
            return backoff_s(self._failures, _FIRST_S, _LAST_S)
        self._failures = 0
        return 0.0 if count == _AT_ONCE else _PACE_S

    async def drain(self) -> bool:
        """Hand over all that is due; False as soon as something could not be."""
        try:
            while True:
                count, is_well = await self._some()
                if not is_well or not count:
                    return is_well
        except Defer:
            return False

    async def _some(self) -> tuple[int, bool]:
        """How many entries were claimed, and whether the other side took what it can take."""
        if not await self._outbox.is_due(self.kind):
            return 0, True
        trouble: PollerError | None = None
        try:
            floor = await self._courier.ready()
        except PollerError as away:
            floor, trouble = None, away
        if self._courier.may_repeat:
            return await self._hand_over(floor, trouble)
        # What is claimed and then dropped is in doubt, and costs somebody's balance its move: so a stop waits for this.
        with anyio.move_on_after(_CLOSED_S, shield=True):
            return await self._hand_over(floor, trouble)
        raise Defer(f"{self.kind} was not handed over within {_CLOSED_S:g} s")

    async def _hand_over(self, floor: int | None, trouble: PollerError | None) -> tuple[int, bool]:
        entries = await self._outbox.claim(self.kind, _AT_ONCE, _CLAIM_S, floor)
        if not entries:
            return 0, True
        reach("deliver.claimed")
        doubtful = [] if self._courier.may_repeat else [each for each in entries if each.is_in_doubt]
        certain = [each for each in entries if each not in doubtful]
        receipts = [Receipt(each.id, Fate.UNKNOWN) for each in doubtful]
        if certain and trouble is None:
            try:
                receipts += await self._courier.deliver(certain)
                reach("deliver.sent")
            except PollerError as away:
                trouble = away
        if trouble is not None:
            receipts += [Receipt(each.id, Fate.LEFT, _word(trouble), str(trouble)) for each in certain]
        return len(entries), await self._conclude(receipts)

    async def _conclude(self, receipts: Iterable[Receipt]) -> bool:
        is_well = True
        for (fate, reason, detail), group in groupby(sorted(receipts, key=_sort), key=_sort):
            ids = [each.id for each in group]
            if fate in DONE:
                await self._outbox.remove(ids)
                reach("deliver.removed")
            else:
                is_refused = fate is Fate.REFUSED
                is_well = is_well and is_refused
                last_s = _LAST_REFUSED_S if is_refused else _LAST_S
                await self._outbox.put_back(ids, (detail or reason)[:_DETAIL_LENGTH], _FIRST_S, last_s)
                reach("deliver.put_back")
            if fate is Fate.DELIVERED:
                self._recorder.delivered(self.kind, len(ids))
            elif fate is not Fate.POINTLESS or reason:
                self._recorder.delivery_failed(self.kind, reason or fate.value, len(ids))
        return is_well


class Deliveries:
    """All loops of this replica; which ones there are is for the settings to say.

    *stale_s*: no cached balance is that old. What waits for a cache that the settings do not name any more is forgotten
    then; log rows wait for as long as it takes.
    """

    def __init__(self, outbox: Outbox, couriers: dict[str, Courier], recorder: Recorder, stale_s: float) -> None:
        self.loops = [Deliverer(kind, outbox, courier, recorder) for kind, courier in couriers.items()]
        self._outbox = outbox
        self._recorder = recorder
        self._stale_s = stale_s
        self._unserved = [kind for kind in CACHES if kind not in couriers]

    async def look(self) -> float:
        """Refresh the gauges of the outbox; a turn for ``supervised``."""
        if self._unserved:
            await self._outbox.forget(self._unserved, self._stale_s)
        waiting = await self._outbox.waiting()
        self._recorder.outbox(waiting.depth, waiting.oldest_s)
        return _GAUGE_PACE_S

    async def drain(self, limit_s: float) -> None:
        """Hand over what is due, for at most *limit_s*; the rest stays for the next process."""
        with anyio.move_on_after(limit_s):
            async with anyio.create_task_group() as group:
                for loop in self.loops:
                    group.start_soon(loop.drain)


def _sort(receipt: Receipt) -> tuple[Fate, str, str]:
    return receipt.fate, receipt.reason, receipt.detail


def _word(error: PollerError) -> str:
    return str(getattr(error, "reason", "") or getattr(error, "fault", "") or type(error).__name__).lower()
