"""Whether the ledger still holds what was settled.

Without its rows a task that a stale save reopens would be paid again. The transaction that settles looks for itself
(``lock.sql``); this is for those who watch, and for the person who says that it may go on.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final, NamedTuple

import anyio

from poller.core.schedule import backoff_s, jitter
from poller.errors import LedgerMissing, OtherGateway
from poller.postgres.database import Database
from poller.postgres.faults import Fault, StatementFailed
from poller.postgres.statements import Statements

_TIMEOUT_S: Final = 10.0
_LOCK_MS: Final = "2000"
_TRIES: Final = 3


class Aside(NamedTuple):
    """What became of the ledger row that had the key of another task."""

    pk: int
    verdict: str
    """One of those in ``set_aside.sql``."""
    is_requeued: bool
    """Whether the task was in quarantine, and is asked about again."""


class Ledger:
    """The ledger as a whole. Raises as ``Database.fetch`` does."""

    def __init__(self, database: Database, statements: Statements) -> None:
        self._database = database
        self._sql = statements

    async def note(self) -> None:
        """Look for the settlement noted last, and note a newer one. Raises LedgerMissing when it, or all, is gone."""
        (row,) = await self._database.fetch(self._sql.ledger_note, timeout_s=_TIMEOUT_S)
        if not row["is_whole"]:
            raise LedgerMissing(f"it held a settlement of {row['noted_at']} that is gone")

    async def accept_loss(self, who: str) -> bool:
        """Let *who* have tasks settled again, on record; False when nothing is lost."""
        async with self._database.transaction() as transaction:
            if not await transaction.fetch(self._sql.ledger_accept):
                return False
            await transaction.fetch(self._sql.operator_act, who, "ledger_loss_accepted", None, "")
        return True

    async def set_aside(self, pks: Sequence[int], who: str) -> list[Aside]:
        """Have rows of former tasks give up their keys to the tasks *pks*, which leave the quarantine; on record.

        One transaction that holds the tasks, so that none is settled meanwhile; doing it twice is harmless. Raises
        NotPermitted to all but the owner of the schema, StatementFailed when somebody else holds a task for long.
        """
        tries = 1
        while True:
            try:
                return await self._set_aside(sorted(set(pks)), who)
            except StatementFailed as failure:
                if failure.fault not in (Fault.RETRY_TX, Fault.LOCKED) or tries >= _TRIES:
                    raise
            await anyio.sleep(jitter(backoff_s(tries, 0.05, 1.0), random.random()))
            tries += 1

    async def _set_aside(self, pks: list[int], who: str) -> list[Aside]:
        async with self._database.transaction(timeout_s=_TIMEOUT_S) as transaction:
            (locked,) = await transaction.fetch(self._sql.lock, pks, [], _LOCK_MS, False)
            if not locked["is_ledger_whole"]:
                raise LedgerMissing("a settlement that it held is gone")
            if locked["other_home"]:
                raise OtherGateway(locked["other_home"], "another")
            verdicts = {row["pk"]: row["verdict"] for row in await transaction.fetch(self._sql.set_aside, pks, who)}
            free = [pk for pk, verdict in verdicts.items() if verdict in _SETTLED_NEXT]
            requeued = {row["task_pk"] for row in await transaction.fetch(self._sql.requeue, free, who)}
        return [Aside(pk, verdict, pk in requeued) for pk, verdict in verdicts.items()]


_SETTLED_NEXT: Final = ("set_aside", "free", "returned")
"""No row of another task is in the way of these; one that returned is closed without money."""
