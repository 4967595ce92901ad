"""Log rows for a database of their own: at least once, and each found again by the ledger's key, so once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import anyio

from poller.core.delivery import Entry, Fate, Receipt
from poller.crashpoints import reach
from poller.errors import DatabaseAway
from poller.postgres.database import Database
from poller.postgres.faults import Fault, StatementFailed
from poller.postgres.statements import Statements

_STATEMENTS_S: Final = 15.0


class LogDatabase:
    """The log database, opened when it is first needed: its being away stops nothing but the log rows."""

    def __init__(self, open_it: Callable[[], Awaitable[Database]]) -> None:
        self._open_it = open_it
        self._database: Database | None = None
        self._opening = anyio.Lock()

    async def get(self) -> Database:
        """The open database. Raises DatabaseAway, Misconfigured and NotPermitted, each time anew."""
        async with self._opening:
            if self._database is None:
                self._database = await self._open_it()
            return self._database

    async def close(self) -> None:
        """Close what was opened."""
        if self._database is not None:
            await self._database.close()


class LogCourier:
    """Adds the lines that settling left in the outbox to ``logs`` in another database."""

    may_repeat = True

    def __init__(self, logs: LogDatabase, statements: Statements) -> None:
        self._logs = logs
        self._statements = statements

    async def ready(self) -> int:
        """The id of the newest log row there: a line that we add from now on has a greater one."""
        database = await self._logs.get()
        (row,) = await database.fetch(self._statements.logs_floor)
        return int(row["floor"])

    async def deliver(self, entries: Sequence[Entry]) -> list[Receipt]:
        """Add the lines that are not there yet, in one transaction; those that the database refuses stand alone.

        Raises DatabaseAway when nothing was added, or when that is not known: adding them again does no harm.
        """
        try:
            await self._add(entries)
        except StatementFailed as failure:
            if failure.fault is not Fault.POISON:
                raise
            if len(entries) == 1:
                return [Receipt(entries[0].id, Fate.REFUSED, failure.fault.value, failure.detail)]
            middle = len(entries) // 2
            return await self._half(entries[:middle]) + await self._half(entries[middle:])
        return [Receipt(each.id, Fate.DELIVERED) for each in entries]

    async def _half(self, entries: Sequence[Entry]) -> list[Receipt]:
        try:
            return await self.deliver(entries)
        except (DatabaseAway, StatementFailed) as away:
            # The other half may be in: so this one is told of by receipts.
            reason = away.fault.value if isinstance(away, StatementFailed) else away.reason
            return [Receipt(each.id, Fate.LEFT, reason) for each in entries]

    async def _add(self, entries: Sequence[Entry]) -> None:
        lines = f"[{','.join(each.payload for each in entries)}]"
        database = await self._logs.get()
        async with database.transaction(timeout_s=_STATEMENTS_S) as transaction:
            await transaction.fetch(self._statements.lock_logs)
            reach("log.locked")
            await transaction.fetch(self._statements.add_logs, lines)
            reach("log.added")
        reach("log.committed")
