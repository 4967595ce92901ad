"""What is watched beside the lanes: the queue, others that finish our tasks, money that moved again, old notes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Protocol

from poller.errors import LedgerMissing

_OVERLAP_S = 60.0
"""How far back each look for foreign finals reaches again: their transactions may commit later than their times say."""
_REMEMBERED = 100_000
_NAMED = 10
"""Rows named in one line of log."""
_CATCH_UP_S = 0.5
"""Between two looks of the audit while more settlements wait for one."""


class Queue(Protocol):
    """Active tasks by what upstream made of them, and the oldest wait for an ask."""

    @property
    def submitted(self) -> int: ...

    @property
    def processing(self) -> int: ...

    @property
    def oldest_unasked_s(self) -> float: ...


class Watchman(Protocol):
    """The reads behind the watching."""

    async def queue(self) -> Queue: ...

    async def foreign_finals(self, since_s: float) -> Sequence[tuple[int, int, str]]: ...

    async def quarantined(self) -> int: ...

    async def unassigned(self) -> tuple[int, Sequence[int]]: ...

    async def db_now(self) -> float: ...


class Notes(Protocol):
    """What we remember about tasks."""

    async def tidy_notes(self, after_pk: int) -> int: ...


class Leases(Protocol):
    """Where a channel is paused for the whole fleet."""

    async def pause(self, channel_id: int | None, reason: str) -> object: ...


class Drift(Protocol):
    """A settlement that the gateway's tables contradict."""

    @property
    def task_pk(self) -> int: ...

    @property
    def kind(self) -> str: ...


class Audit(Protocol):
    """What one look at recent settlements came to."""

    @property
    def drift_quota(self) -> int: ...

    @property
    def fresh(self) -> Sequence[Drift]: ...

    @property
    def is_behind(self) -> bool: ...


class Auditor(Protocol):
    """Who looks at recent settlements."""

    async def look(self) -> Audit: ...


class Ledger(Protocol):
    """Where it is noticed that settlements are gone from the ledger: ``note`` raises LedgerMissing then."""

    async def note(self) -> None: ...


class Recorder(Protocol):
    """Who counts and logs what was seen."""

    def queue(self, submitted: int, processing: int, oldest_due_s: float) -> None: ...

    def quarantined_total(self, count: int) -> None: ...

    def unassigned(self, count: int, task_pks: Sequence[int]) -> None: ...

    def pool(self, sizes: dict[str, int]) -> None: ...

    def second_writer(self, channel_id: int, task_pks: Sequence[int]) -> None: ...

    def ledger_missing(self, why: str | None) -> None: ...

    def drift(self, quota: int, fresh: Sequence[tuple[int, str]]) -> None: ...


class Vigil:
    """Four turns for ``supervised``: ``look`` refreshes the gauges, ``guard`` searches for a second writer, ``audit``
    compares recent settlements with what the gateway's tables say of them now, ``tidy`` forgets what nobody needs.

    Where a gateway still polls, it refunds outside our guard. Its finals have no row in our ledger: the first one is
    said with the remedy. Without our ledger all finals look so: the guard sees first whether that is there.
    *stops_channels* (profile ``fork``, whose poller pays before it writes) also pauses the channel for the fleet until
    somebody resumes it.
    """

    def __init__(
        self,
        watchman: Watchman,
        notes: Notes,
        leases: Leases,
        auditor: Auditor,
        ledger: Ledger,
        recorder: Recorder,
        sizes: Callable[[], dict[str, int]],
        *,
        pace_s: float,
        stops_channels: bool,
    ) -> None:
        self._watchman = watchman
        self._notes = notes
        self._leases = leases
        self._auditor = auditor
        self._ledger = ledger
        self._recorder = recorder
        self._sizes = sizes
        self._pace_s = pace_s
        self._stops_channels = stops_channels
        self._since_s: float | None = None
        self._from_s = 0.0
        self._said: set[int] = set()
        self._tidied_pk = 0

    async def look(self) -> float:
        """Refresh the gauges of queue, quarantine, tasks without a channel, and pool."""
        queue = await self._watchman.queue()
        self._recorder.queue(queue.submitted, queue.processing, queue.oldest_unasked_s)
        self._recorder.quarantined_total(await self._watchman.quarantined())
        self._recorder.unassigned(*await self._watchman.unassigned())
        self._recorder.pool(self._sizes())
        return self._pace_s

    async def guard(self) -> float:
        """Report rows that became final since this replica started and that no ledger row explains."""
        now_s = await self._watchman.db_now()
        try:
            finals = [] if self._since_s is None else await self._watchman.foreign_finals(self._from_s)
            # After them: what is gone from the ledger between the two explains them too.
            await self._ledger.note()
        except LedgerMissing as missing:
            self._recorder.ledger_missing(str(missing))
            self._since_s = None
            return self._pace_s
        self._recorder.ledger_missing(None)
        if self._since_s is None:
            self._since_s = self._from_s = now_s
            return self._pace_s
        fresh: dict[int, list[int]] = defaultdict(list)
        for pk, channel_id, _ in finals:
            if pk not in self._said:
                fresh[channel_id].append(pk)
        for channel_id, pks in fresh.items():
            if self._stops_channels:
                await self._leases.pause(channel_id, "second_writer")
            self._recorder.second_writer(channel_id, pks[:_NAMED])
            self._said.update(pks)
        if len(self._said) > _REMEMBERED:
            self._said.clear()
        self._from_s = max(self._since_s, now_s - self._pace_s - _OVERLAP_S)
        return self._pace_s

    async def tidy(self) -> float:
        """Forget some notes about tasks that are over; turn by turn it goes round all notes."""
        self._tidied_pk = await self._notes.tidy_notes(self._tidied_pk)
        return self._pace_s

    async def audit(self) -> float:
        """Show the drift that lasts, and tell of the fresh."""
        audit = await self._auditor.look()
        self._recorder.drift(audit.drift_quota, [(each.task_pk, each.kind) for each in audit.fresh])
        return _CATCH_UP_S if audit.is_behind else self._pace_s
