"""What the daemon looks at beside its own work: the backlog, other writers, quarantine, the clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from poller.postgres.pool import Database
from poller.postgres.statements import Statements

_TIMEOUT_S = 10.0


class Queue(NamedTuple):
    """The backlog. Above 50 000 active tasks the counts are estimates."""

    submitted: int
    """Not started by upstream, as far as anybody knows."""
    processing: int
    oldest_unasked_s: float
    """For how long the worst served lane with work was not asked; 0 when nothing is active."""


class Watchman:
    """Reads, never writes; each look is a short statement. Raises as ``Database.fetch`` does."""

    def __init__(self, database: Database, statements: Statements) -> None:
        self._database = database
        self._sql = statements

    async def queue(self) -> Queue:
        """The backlog of the whole fleet."""
        (row,) = await self._database.fetch(self._sql.queue, timeout_s=_TIMEOUT_S)
        return Queue(row["submitted"], row["processing"], row["oldest_unasked_s"] or 0.0)

    async def channels_with_work(self) -> list[int]:
        """Ids of the channels that have active tasks, ascending."""
        rows = await self._database.fetch(self._sql.discover, timeout_s=_TIMEOUT_S)
        return [row["channel_id"] for row in rows]

    async def usable_channels(self, types: Sequence[int]) -> int:
        """How many channels of *types* have an address and a key."""
        (row,) = await self._database.fetch(self._sql.usable_channels, list(types), timeout_s=_TIMEOUT_S)
        return int(row["usable"])

    async def foreign_finals(self, since_s: float) -> list[tuple[int, int, str]]:
        """(pk, channel id, task id) of tasks that became final since without a ledger row, at most 200, oldest first.

        *since_s* is epoch seconds of the database's clock; let it follow the looks, a minute behind, because each look
        reads every task that ended since. Each task returned was finished by a second writer.
        """
        rows = await self._database.fetch(self._sql.finalized, since_s, timeout_s=_TIMEOUT_S)
        return [(row["pk"], row["channel_id"], row["task_id"]) for row in rows]

    async def unassigned(self) -> tuple[int, list[int]]:
        """How many active tasks name no channel, counted up to 2000, and the lowest ten of their pks."""
        (row,) = await self._database.fetch(self._sql.unassigned, timeout_s=_TIMEOUT_S)
        return int(row["tasks"]), list(row["pks"])

    async def quarantined(self) -> int:
        """How many tasks wait for a person."""
        (row,) = await self._database.fetch(self._sql.quarantined, timeout_s=_TIMEOUT_S)
        return int(row["quarantined"])

    async def db_now(self) -> float:
        """The database's clock in epoch seconds."""
        (row,) = await self._database.fetch(self._sql.db_now, timeout_s=_TIMEOUT_S)
        return float(row["now_s"])
