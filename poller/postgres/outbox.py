"""The outbox in the gateway's database: what settling wrote for other systems, until it is handed over."""

from __future__ import annotations

from collections.abc import Sequence

from poller.core.delivery import Entry, Waiting
from poller.core.model import Secret
from poller.postgres.database import Database
from poller.postgres.statements import Statements


class Outbox:
    """The rows of ``poller.outbox``. Everything here raises Defer when the database cannot be reached."""

    def __init__(self, database: Database, statements: Statements) -> None:
        self._database = database
        self._statements = statements

    async def is_due(self, kind: str) -> bool:
        """Whether an entry of *kind* waits to be handed over now."""
        (row,) = await self._database.fetch(self._statements.outbox_due, kind)
        return bool(row["is_due"])

    async def claim(self, kind: str, limit: int, claim_s: float, floor: int | None) -> list[Entry]:
        """Take at most *limit* entries for *claim_s* seconds; after that any replica may take them again.

        The lowest *floor* that an entry was ever claimed with is kept with it: see ``add_logs.sql``.
        """
        rows = await self._database.fetch(self._statements.outbox_claim, kind, limit, claim_s, floor)
        return [
            Entry(row["id"], row["task_pk"], row["payload"], row["age_s"], row["is_in_doubt"])
            for row in sorted(rows, key=lambda row: row["id"])
        ]

    async def remove(self, ids: Sequence[int]) -> None:
        """Forget what is done with."""
        await self._database.fetch(self._statements.outbox_remove, ids)

    async def forget(self, kinds: Sequence[str], older_s: float) -> None:
        """Be done with entries of *kinds* that are older than *older_s* seconds."""
        await self._database.fetch(self._statements.outbox_forget, kinds, older_s)

    async def put_back(self, ids: Sequence[int], reason: str, first_s: float, last_s: float) -> None:
        """Leave what surely was not handed over for later: *first_s*, doubled with each try, up to *last_s*."""
        await self._database.fetch(self._statements.outbox_put_back, ids, reason, first_s, last_s)

    async def waiting(self) -> Waiting:
        """How much is in the outbox, and for how long."""
        (row,) = await self._database.fetch(self._statements.outbox_waiting)
        return Waiting(row["depth"], row["oldest_s"])

    async def token_keys(self, ids: Sequence[int]) -> dict[int, Secret]:
        """The keys of the gateway's tokens by id; those that are gone are missing."""
        rows = await self._database.fetch(self._statements.token_keys, ids)
        return {row["id"]: Secret(row["key"]) for row in rows}
