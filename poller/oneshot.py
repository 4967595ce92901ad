"""One full pass and an exit: for cron, for tests, and for a look at what would be settled."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TextIO

import anyio

from poller.core.evidence import clean_text
from poller.core.model import Advance, Channel, Settled, Settlement, Task
from poller.core.passes import Page, PassCounts
from poller.core.pricing import PriceBook
from poller.errors import Defer, Incomplete
from poller.fleet import Leases
from poller.lane import Lane

_LONGEST_LINE = 2000


class Source(Protocol):
    """The reads that a rehearsal passes on."""

    async def page(self, channel_id: int, after_pk: int, limit: int) -> Page: ...

    async def last_pk(self, channel_id: int) -> int: ...

    async def channel(self, channel_id: int) -> Channel | None: ...

    async def prices(self) -> PriceBook: ...

    async def user_groups(self, ids: Sequence[int]) -> dict[int, str]: ...

    async def refunded_within_hour(self, channel_id: int) -> int: ...


async def once(leases: Leases, open_lane: Callable[[int], Lane], renewal_s: float) -> list[PassCounts]:
    """Walk every lane that can be had, once. The leases are handed back whatever happens.

    Raises Incomplete, after everything that could be done was done, when a channel could not be asked, is paused, or
    is leased elsewhere; DatabaseAway when the database goes.
    """
    unasked: list[str] = []
    done: list[PassCounts] = []
    lanes: list[Lane] = []

    async def walk(lane: Lane) -> None:
        try:
            counts = await lane.walk()
            done.append(counts)
            if lane.is_paused:
                unasked.append(f"channel {lane.channel_id}: paused")
            elif lane.must_stop and not counts.failed_requests:
                unasked.append(f"channel {lane.channel_id}: leased by another replica")
            if counts.failed_requests:
                unasked.append(f"channel {lane.channel_id}: {counts.failed_requests} requests failed")
        except Defer as away:
            unasked.append(f"channel {lane.channel_id}: {away}")
        finally:
            await lane.asker.close()

    async def renew() -> None:
        while True:
            await anyio.sleep(renewal_s)
            try:
                beat = await leases.beat(is_leaving=True)
            except Defer:
                # The passes go on: what a lost lease costs is a request asked twice.
                continue
            paused = {state.channel_id for state in beat.lanes if state.is_paused}
            for lane in lanes:
                lane.set_flags(is_paused=beat.is_all_paused or lane.channel_id in paused, has_work=True)

    try:
        beat = await leases.beat()
        for state in beat.lanes:
            if state.is_paused or beat.is_all_paused:
                unasked.append(f"channel {state.channel_id}: paused")
            elif state.has_work:
                lanes.append(open_lane(state.channel_id))
        elsewhere = beat.lanes_with_work - sum(state.has_work for state in beat.lanes)
        if elsewhere > 0:
            unasked.append(f"{elsewhere} channels are leased by another replica")
        async with anyio.create_task_group() as renewing:
            renewing.start_soon(renew)
            async with anyio.create_task_group() as group:
                for lane in lanes:
                    group.start_soon(walk, lane)
            renewing.cancel_scope.cancel()
    finally:
        with anyio.move_on_after(5, shield=True):
            await leases.release()
    if unasked:
        raise Incomplete("not everything could be asked: " + "; ".join(unasked))
    return done


class Rehearsal:
    """A source whose writes are lines of text: what would be settled, and nothing of it done."""

    def __init__(self, source: Source, out: TextIO = sys.stdout) -> None:
        self.settled = 0
        self._source = source
        self._out = out

    async def page(self, channel_id: int, after_pk: int, limit: int) -> Page:
        """As the source has it."""
        return await self._source.page(channel_id, after_pk, limit)

    async def last_pk(self, channel_id: int) -> int:
        """As the source has it."""
        return await self._source.last_pk(channel_id)

    async def channel(self, channel_id: int) -> Channel | None:
        """As the source has it."""
        return await self._source.channel(channel_id)

    async def prices(self) -> PriceBook:
        """As the source has it."""
        return await self._source.prices()

    async def user_groups(self, ids: Sequence[int]) -> dict[int, str]:
        """As the source has it."""
        return await self._source.user_groups(ids)

    async def refunded_within_hour(self, channel_id: int) -> int:
        """As the source has it."""
        return await self._source.refunded_within_hour(channel_id)

    async def settle(self, settlements: Sequence[Settlement]) -> list[Settled]:
        """Print each settlement with the amounts as they were read."""
        for each in settlements:
            task = each.task
            charged = task.reserved if each.charged is None else each.charged
            self._say(
                f"would settle task={task.pk} task_id={task.task_id} channel_id={task.channel_id}"
                f" user_id={task.user_id} outcome={each.outcome.value.lower()} reserved={task.reserved}"
                f" charged={charged} refunded={task.reserved - charged} rule={each.rule}"
                f" price={each.price_source or '-'}"
            )
        self.settled += len(settlements)
        return []

    async def advance(self, changes: Sequence[tuple[Task, Advance]]) -> int:
        """Print each change of an open row."""
        for task, change in changes:
            self._say(f"would advance task={task.pk} state={change.state.value} progress={change.progress}")
        return 0

    async def remember(self, channel_id: int, sightings: Sequence[tuple[Task, int]]) -> None:
        """Nothing: a rehearsal leaves no notes."""

    async def remember_keys(self, channel_id: int, digests: Sequence[tuple[Task, str]]) -> None:
        """Nothing, likewise."""

    async def quarantine(self, entries: Sequence[tuple[Task, str, str]]) -> int:
        """Print each task that would be kept for a person."""
        for task, reason, _ in entries:
            self._say(f"would quarantine task={task.pk} reason={reason}")
        return 0

    async def unknown_words(self, channel_id: int, words: Mapping[str, tuple[int, str]]) -> None:
        """Print each word that no list knows."""
        for word, (count, _) in words.items():
            self._say(f"unknown status word={word!r} channel_id={channel_id} count={count}")

    def _say(self, line: str) -> None:
        # Ids and words are upstream's: none of them breaks the line or steers a terminal.
        print(clean_text(line, _LONGEST_LINE), file=self._out, flush=True)


class NoLeases:
    """The pace of a pass that nobody else may notice."""

    async def start_pass(self, channel_id: int) -> float | None:
        """Always allowed."""
        return 0.0

    async def end_pass(self, channel_id: int, counts: dict[str, Any]) -> None:
        """Nothing is kept."""

    async def save_breaker(
        self, channel_id: int, state: str, until_in_s: float | None, failures: int, concurrency: int
    ) -> None:
        """Nothing is kept."""


async def rehearse(channel_ids: Sequence[int], open_lane: Callable[[int], Lane]) -> list[PassCounts]:
    """Walk the channels one after another with lanes that write nothing. Raises Incomplete like ``once``."""
    done: list[PassCounts] = []
    unasked: list[str] = []
    for channel_id in channel_ids:
        lane = open_lane(channel_id)
        try:
            counts = await lane.walk()
        finally:
            await lane.asker.close()
        done.append(counts)
        if counts.failed_requests:
            unasked.append(f"channel {channel_id}: {counts.failed_requests} requests failed")
    if unasked:
        raise Incomplete("not everything could be asked: " + "; ".join(unasked))
    return done
