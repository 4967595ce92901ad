"""Looks for money that is not where it should be, page by page, and gives back what is certainly owed.

Tasks and log rows are read side by side through two cursors in one order, so memory stays flat on both sides whatever
their number, also when the logs are in another database. What is owed is given back by the settler itself: the same
locks, the same statement, the same ledger key.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple

from poller.core.model import Outcome, Settled, Task
from poller.core.reconcile import (
    Candidate,
    Class,
    Finding,
    Place,
    Weighing,
    place_of_refund,
    place_of_task,
    settlement_of,
)
from poller.postgres.database import Database, Transaction
from poller.postgres.settle import Settler
from poller.postgres.statements import Statement, Statements

_DAY_S: Final = 86400.0
_LEDGER_PAGE: Final = 50_000
_PAGE_S: Final = 120.0
_CLOCKS_S: Final = 86400.0
"""How much earlier than a task its refund may seem to be, as in ``reconcile_owed``."""
_REPAIRED_AT_ONCE: Final = 50
_DELETED_S: Final = 3600.0
"""How much older than the oldest log row a missing one must be to be taken for deleted with its time."""

LogsOf = Callable[[], Awaitable[Database]]


class Span(NamedTuple):
    """What there is to look at."""

    candidates: int
    settlements: int
    oldest_s: float | None
    """When the oldest candidate was submitted; None without any."""
    logs_since_s: float | None
    """When the oldest log row of a refund was written; None without any."""
    logs_until_s: float | None
    """When somebody else last wrote a log row; None without any."""


class Page(NamedTuple):
    """Some of what was looked at, and what is wrong with it."""

    looked: int
    findings: list[Finding]


class Reconciler:
    """The differences of one gateway's database. *logs_of* opens the log database, where it is another one."""

    def __init__(
        self,
        database: Database,
        statements: Statements,
        *,
        replica_id: str,
        logs_of: LogsOf | None = None,
        moves_caches: bool = False,
        lowers_channels: bool = False,
    ) -> None:
        self._database = database
        self._statements = statements
        self._logs_of = logs_of
        self._settler = Settler(
            database,
            statements,
            of_finished=True,
            replica_id=replica_id,
            lowers_channels=lowers_channels,
            logs_elsewhere=logs_of is not None,
            moves_caches=moves_caches,
            quarantine=_leave,
        )

    async def span(self, since_s: float) -> Span:
        """How much there is to look at since *since_s*, epoch seconds. Raises DatabaseAway, as everything here."""
        async with self._long(self._database) as reading:
            (row,) = await reading.fetch(self._statements.reconcile_span, since_s)
        async with self._long(await self._logs()) as reading:
            (logs,) = await reading.fetch(self._statements.reconcile_logs)
        return Span(row["candidates"], row["settlements"], row["oldest_s"], logs["since_s"], logs["until_s"])

    async def owed(self, since_s: float, span: Span, *, is_sure: bool = False) -> AsyncIterator[Page]:
        """Finished tasks that are owed money for certain, and those that may be.

        *is_sure*: a person says that no refund is missing in the logs, whatever time they cover.
        """
        if span.oldest_s is None:
            return
        weighing = Weighing()
        logs = await self._logs()
        async with contextlib.AsyncExitStack() as stack:
            reading = await stack.enter_async_context(self._long(self._database))
            # One transaction does for both cursors where it can: a small pool stays free for repairs.
            beside = reading if logs is self._database else await stack.enter_async_context(self._long(logs))
            from_s = math.inf if span.logs_since_s is None else span.logs_since_s
            until_s = -math.inf if span.logs_until_s is None else span.logs_until_s
            await reading.fetch(self._statements.reconcile_owed, since_s, from_s, until_s, is_sure)
            await beside.fetch(self._statements.reconcile_refunds, max(since_s, span.oldest_s) - _CLOCKS_S)
            refunds = _Refunds(beside, self._statements.next_refunds)
            while rows := await reading.fetch(self._statements.next_owed):
                findings, looked = [], 0
                for row in rows:
                    is_task = row["is_task"]
                    place = place_of_task(row["user_id"], row["key"], row["at_us"], is_task)
                    await refunds.pour(weighing, place)
                    if not is_task:
                        weighing.settlement(place)
                        continue
                    looked += 1
                    if finding := weighing.task(place, _candidate(row)):
                        findings.append(finding)
                yield Page(looked, findings)

    async def ledger(self, since_s: float, span: Span) -> AsyncIterator[Page]:
        """Settlements that the gateway's tables contradict."""
        after_pk = -(2**63)
        (now,) = await self._database.fetch(self._statements.db_now)
        lines_since_s = (now["now_s"] if span.logs_since_s is None else span.logs_since_s) - _DELETED_S
        while True:
            rows = await self._database.fetch(
                self._statements.reconcile_ledger,
                after_pk,
                since_s,
                _LEDGER_PAGE,
                self._logs_of is not None,
                lines_since_s,
                timeout_s=_PAGE_S,
            )
            if not rows[0]["looked"]:
                return
            after_pk = rows[0]["last_pk"]
            yield Page(rows[0]["looked"], [_difference(row) for row in rows if row["pk"] is not None])

    async def repair(self, findings: Sequence[Finding]) -> list[Settled]:
        """Give back what is OWED among *findings*, once, however often and beside whomever this runs."""
        settlements = [settlement_of(each.candidate) for each in findings if each.kind is Class.OWED and each.candidate]
        done: list[Settled] = []
        for start in range(0, len(settlements), _REPAIRED_AT_ONCE):
            done += await self._settler.settle(settlements[start : start + _REPAIRED_AT_ONCE])
        return done

    async def _logs(self) -> Database:
        return self._database if self._logs_of is None else await self._logs_of()

    @contextlib.asynccontextmanager
    async def _long(self, database: Database) -> AsyncIterator[Transaction]:
        """A transaction that reads and may take a day: a table of ten million rows is sorted in it."""
        async with database.transaction(timeout_s=_DAY_S) as reading:
            await reading.fetch(self._statements.read_long)
            yield reading


class _Refunds:
    """The cursor over refunds, read as far as the other one has come."""

    def __init__(self, reading: Transaction, next_page: Statement) -> None:
        self._reading = reading
        self._next_page = next_page
        self._rows: list[Any] = []
        self._at = 0
        self._head: Place | None = None
        self._is_over = False

    async def pour(self, weighing: Weighing, until: Place) -> None:
        """Give *weighing* every refund that stands before *until*."""
        while True:
            if self._head is None:
                if self._is_over:
                    return
                await self._step()
                continue
            if self._head > until:
                return
            weighing.refund(self._head)
            self._head = None

    async def _step(self) -> None:
        if self._at == len(self._rows):
            self._rows, self._at = await self._reading.fetch(self._next_page), 0
            if not self._rows:
                self._is_over = True
                return
        row = self._rows[self._at]
        self._at += 1
        self._head = place_of_refund(row["user_id"], row["key"], row["at_us"])


def _candidate(row: Any) -> Candidate:
    return Candidate(
        row["pk"],
        row["task_id"],
        row["user_id"],
        row["channel_id"],
        row["model"],
        Outcome(row["outcome"]),
        row["reserved"],
        row["charged"],
        row["fail_reason"],
        row["at_us"],
        row["doubt"],
    )


def _difference(row: Any) -> Finding:
    kind = Class(row["kind"])
    return Finding(kind, row["pk"], row["task_id"], row["user_id"], row["channel_id"], int(row["drift"]))


async def _leave(_refused: Sequence[tuple[Task, str, str]]) -> int:
    """What cannot be given back stays as it is: nobody would ask about a finished task anyway."""
    return 0
