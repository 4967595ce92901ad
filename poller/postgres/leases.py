"""Who walks which lane: leases in ``poller.lane``, judged by the database's clock alone.

Leases save requests; they guard nothing. Two replicas that walk one lane for a moment are harmless, because a
settlement is guarded by the ledger.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from poller.postgres.pool import Database
from poller.postgres.statements import Statements

_TIMEOUT_S = 5.0
"""Each statement here is short; one that takes longer waits for a lock or a dead peer."""


class LaneState(NamedTuple):
    """One lane that this replica holds. All times are epoch seconds of the database's clock, ``now_s`` among them."""

    channel_id: int
    has_work: bool
    is_paused: bool
    """This lane alone; ``Beat.is_all_paused`` is about all."""
    triggered_at_s: float | None
    pass_started_at_s: float | None
    breaker: str
    breaker_until_s: float | None
    breaker_failures: int
    now_s: float


class Beat(NamedTuple):
    """What one renewal came to."""

    lanes: tuple[LaneState, ...]
    """All lanes held from now on; one that is missing here went to another replica."""
    is_all_paused: bool
    replicas: int
    lanes_with_work: int
    share: int
    """How many lanes with work this replica should hold at most; it gives more back at the end of a pass."""


class Leases:
    """The lanes of one replica. *ttl_s* is how long they outlive its last beat. Raises as ``Database.fetch`` does."""

    def __init__(
        self, database: Database, statements: Statements, replica_id: str, ttl_s: float, *, version: str = ""
    ) -> None:
        self._database = database
        self._sql = statements
        self._replica_id = replica_id
        self._ttl_s = ttl_s
        self._version = version

    async def beat(self, *, is_leaving: bool = False) -> Beat:
        """Renew what is held, find out which channels have work, take free lanes up to the fair share.

        *is_leaving*: take none, only keep what is held.
        """
        found = await self._database.fetch(self._sql.discover, timeout_s=_TIMEOUT_S)
        busy = [row["channel_id"] for row in found]
        renewed = await self._database.fetch(
            self._sql.renew, self._replica_id, self._ttl_s, self._version, busy, timeout_s=_TIMEOUT_S
        )
        taken = await self._database.fetch(
            self._sql.take, self._replica_id, self._ttl_s, is_leaving, timeout_s=_TIMEOUT_S
        )
        new = [row for row in taken if row["channel_id"] is not None]
        return Beat(
            lanes=tuple(LaneState(*(row[name] for name in LaneState._fields)) for row in (*renewed, *new)),
            is_all_paused=taken[0]["is_all_paused"],
            replicas=taken[0]["replicas"],
            lanes_with_work=taken[0]["lanes_with_work"],
            share=taken[0]["share"],
        )

    async def release(self, channel_ids: Sequence[int] | None = None) -> None:
        """Give these lanes back; None gives all back and leaves the fleet for good, as the last thing before the end.

        All is also what was asked for and never answered: a beat that the server comes to later takes nothing.
        """
        ids = None if channel_ids is None else list(channel_ids)
        if ids is None:
            # By itself: the next statement sees what a take took that this one had to wait for.
            await self._database.fetch(self._sql.leave, self._replica_id, timeout_s=_TIMEOUT_S)
        await self._database.fetch(self._sql.release, self._replica_id, ids, timeout_s=_TIMEOUT_S)

    async def start_pass(self, channel_id: int) -> float | None:
        """Note that a pass begins; the database's time in epoch seconds, None when the lane is no longer ours."""
        rows = await self._database.fetch(self._sql.start_pass, channel_id, self._replica_id, timeout_s=_TIMEOUT_S)
        return rows[0]["now_s"] if rows else None

    async def end_pass(self, channel_id: int, counts: Mapping[str, object]) -> None:
        """Note that the pass is complete, and its *counts* (JSON values) for the status page."""
        text = json.dumps(dict(counts))
        await self._database.fetch(self._sql.end_pass, channel_id, self._replica_id, text, timeout_s=_TIMEOUT_S)

    async def save_breaker(
        self, channel_id: int, state: str, until_in_s: float | None, failures: int, concurrency: int
    ) -> None:
        """Keep the breaker (*state* closed, open or half_open; open for *until_in_s* more) for the next holder."""
        await self._database.fetch(
            self._sql.save_breaker,
            channel_id,
            self._replica_id,
            state,
            until_in_s,
            failures,
            concurrency,
            timeout_s=_TIMEOUT_S,
        )

    async def trigger(self) -> int:
        """Make every lane of the fleet due now; returns how many there are. Lifts no pause."""
        return len(await self._database.fetch(self._sql.trigger, timeout_s=_TIMEOUT_S))

    async def pause(self, channel_id: int | None, reason: str = "") -> None:
        """Stop asking, fleet-wide and across restarts: on one channel, or on all with None."""
        if channel_id is None:
            await self._database.fetch(self._sql.pause_all, True, timeout_s=_TIMEOUT_S)
        else:
            await self._database.fetch(self._sql.pause_lane, channel_id, reason, timeout_s=_TIMEOUT_S)

    async def resume(self, channel_id: int | None) -> None:
        """Ask again: on one channel; None lifts the pause of all, but not that of single channels."""
        if channel_id is None:
            await self._database.fetch(self._sql.pause_all, False, timeout_s=_TIMEOUT_S)
        else:
            await self._database.fetch(self._sql.resume_lane, channel_id, timeout_s=_TIMEOUT_S)

    async def has_channel(self, channel_id: int) -> bool:
        """Whether there is such a channel, in the gateway's table or among the lanes."""
        (row,) = await self._database.fetch(self._sql.has_channel, channel_id, timeout_s=_TIMEOUT_S)
        return bool(row["is_there"])

    async def lanes_overview(self) -> list[dict[str, Any]]:
        """All lanes of the fleet in channel order, with the columns of ``lanes.sql``; ``pass_counts`` is a dict."""
        rows = await self._database.fetch(self._sql.lanes, timeout_s=_TIMEOUT_S)
        return [dict(row) | {"pass_counts": json.loads(row["pass_counts"])} for row in rows]

    async def replicas_overview(self) -> list[dict[str, Any]]:
        """The replicas seen within the last hour, with the columns of ``replicas.sql``."""
        return [dict(row) for row in await self._database.fetch(self._sql.replicas, timeout_s=_TIMEOUT_S)]
