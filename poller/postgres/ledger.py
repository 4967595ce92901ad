"""Whether the ledger still holds what was settled.

Without its rows a task that a stale save reopens would be paid again. The transaction that settles looks for itself
(``lock.sql``); this is for those who watch, and for the person who says that it may go on.
"""

from __future__ import annotations

from poller.errors import LedgerMissing
from poller.postgres.database import Database
from poller.postgres.statements import Statements

_TIMEOUT_S = 10.0


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
