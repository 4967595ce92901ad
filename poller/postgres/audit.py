"""The running audit: what the ledger says was settled, against what the gateway's tables say of it now.

Every settlement is looked at once, a minute after it was made, by one replica of the fleet. What differs is looked at
again until it is mended; it counts as drift only when it has lasted longer than a reopened row needs to be put back.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from poller.postgres.database import Database
from poller.postgres.statements import Statements

_TIMEOUT_S: Final = 20.0
_AT_ONCE: Final = 5000
_SETTLING_S: Final = 45.0
"""Longer than any transaction that settles can last."""
_FIRST_REACH_S: Final = 3600.0
"""How far back a replica begins: what its predecessor may have left."""
_REMEMBERED: Final = 10_000
_UNSEEN: Final = "unseen"


class Drift(NamedTuple):
    """One settlement that the gateway's tables contradict."""

    task_pk: int
    kind: str
    """``open_again``, ``other_outcome``, ``other_amount``, ``other_task`` or ``no_log``."""
    quota: int
    """By how much, never negative; the whole amount where the row as such is in doubt."""


class Audit(NamedTuple):
    """What one look came to."""

    drift_quota: int
    """The sum over all drift that lasts, not only the fresh."""
    fresh: tuple[Drift, ...]
    """Drift that was not told before."""
    looked: int
    """Settlements looked at for the first time."""
    is_behind: bool
    """Whether more are waiting to be looked at."""


class _Seen(NamedTuple):
    """A difference and since when it has been one."""

    drift: Drift
    since_s: float
    is_told: bool


class Auditor:
    """Looks at recent settlements; reads, never writes.

    *grace_s*: how long a difference may last before it is drift. *settling_s*: younger settlements come later.
    """

    def __init__(
        self,
        database: Database,
        statements: Statements,
        *,
        replica_id: str,
        grace_s: float,
        logs_elsewhere: bool = False,
        settling_s: float = _SETTLING_S,
    ) -> None:
        self._database = database
        self._sql = statements
        self._replica_id = replica_id
        self._grace_s = grace_s
        self._logs_elsewhere = logs_elsewhere
        self._settling_s = settling_s
        self._cursor: tuple[datetime, int] | None = None
        self._seen: dict[int, _Seen] = {}

    async def look(self) -> Audit:
        """Look at the next settlements and again at what differed. Raises as ``Database.fetch`` does."""
        at, pk = self._cursor or await self._beginning()
        rows = await self._database.fetch(
            self._sql.audit,
            at,
            pk,
            self._settling_s,
            _AT_ONCE,
            list(self._seen),
            self._replica_id,
            self._logs_elsewhere,
            timeout_s=_TIMEOUT_S,
        )
        first = rows[0]
        if not first["is_ours"]:
            # Whoever begins looks back far enough to find again what is forgotten here.
            self._cursor = None
            self._seen.clear()
            return Audit(0, (), 0, is_behind=False)
        self._cursor = (first["last_at"], first["last_pk"]) if first["looked"] else (at, pk)
        self._follow([row for row in rows if row["pk"] is not None], first["now_s"])
        return self._told(first["now_s"], first["looked"])

    async def _beginning(self) -> tuple[datetime, int]:
        (row,) = await self._database.fetch(self._sql.db_now, timeout_s=_TIMEOUT_S)
        return datetime.fromtimestamp(row["now_s"] - _FIRST_REACH_S, UTC), 0

    def _follow(self, rows: list[Any], now_s: float) -> None:
        """Remember what differs, forget what does no longer."""
        before, self._seen = self._seen, {}
        for row in rows:
            known = before.get(row["pk"])
            if row["kind"] == _UNSEEN:
                if known is not None:
                    self._seen[row["pk"]] = known
                continue
            drift = Drift(row["pk"], row["kind"], int(row["drift"]))
            if known is not None and known.drift.kind == drift.kind:
                self._seen[drift.task_pk] = known._replace(drift=drift)
            elif len(self._seen) < _REMEMBERED:
                self._seen[drift.task_pk] = _Seen(drift, now_s, is_told=False)

    def _told(self, now_s: float, looked: int) -> Audit:
        lasting = [seen for seen in self._seen.values() if now_s - seen.since_s >= self._grace_s]
        fresh = tuple(seen.drift for seen in lasting if not seen.is_told)
        for drift in fresh:
            self._seen[drift.task_pk] = self._seen[drift.task_pk]._replace(is_told=True)
        return Audit(sum(seen.drift.quota for seen in lasting), fresh, looked, is_behind=looked >= _AT_ONCE)
