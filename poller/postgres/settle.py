"""The transaction in which money moves, and what to do when the database refuses it.

BEGIN, lock, settle, COMMIT. Whatever fails in between, nothing of it happened; where it is not known whether COMMIT
came through, the same settlement is run again and the ledger makes it a no-op. So every way out of here is a repeat,
never a compensation.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

import anyio

from poller.core.evidence import clean_text
from poller.core.model import Outcome, Settled, Settlement, Task, Verdict
from poller.core.schedule import backoff_s, jitter
from poller.crashpoints import reach
from poller.errors import DatabaseAway, Defer, LedgerMissing, Misconfigured, OtherGateway
from poller.postgres.columns import columns, is_sound
from poller.postgres.database import Database
from poller.postgres.faults import Fault, StatementFailed
from poller.postgres.statements import Statements

_STATEMENTS_S: Final = 10.0
_DEADLINE_S: Final = 28.0
"""A connection (5 s), lock and settle, COMMIT (10 s) and the release."""
_LOCK_BUDGET_S: Final = 10.0
"""How long halves are tried in search of the task that somebody holds; what is left then waits for the next pass."""
_REASON_LENGTH: Final = 2048
_UNIQUE: Final = "23505"
"""No task can cause it, as the ledger's key is met by ON CONFLICT: a sequence stands behind its table, of logs say."""

_OTHER_GATEWAY: Final = (
    "schema: tasks has columns of another gateway since this program looked: nothing is settled by the rules of the "
    "former one; restart this program"
)

Quarantine = Callable[[Sequence[tuple[Task, str, str]]], Awaitable[int]]


def retry_delay_s(tries: int) -> float:
    """Seconds before the next try after *tries* of them: 50 ms, doubling up to 1 s, jittered."""
    return jitter(backoff_s(tries, 0.05, 1.0), random.random())


class _Patience(NamedTuple):
    """How often one set of tasks is tried, and how long each try waits for a lock."""

    tries: int
    lock_s: float


_WHOLE: Final = _Patience(tries=3, lock_s=2.0)
_HALVES: Final = _Patience(tries=2, lock_s=0.25)
"""Whoever held the whole batch up probably still does."""


class _ShortError(Exception):
    """A statement changed fewer rows than it must: the transaction was rolled back."""


@dataclass(slots=True)
class _Run:
    """One call of settle: what it may still do, and what came of it."""

    attempt: uuid.UUID
    fates: dict[int, Settled] = field(default_factory=dict)
    refused: list[tuple[Settlement, str, str]] = field(default_factory=list)
    give_up_locks_s: float | None = None


class Settler:
    """Settles open tasks, or (*of_finished*) what final ones without a ledger row are owed.

    *quarantine* takes what no repeat can settle; *delay_s* is the wait by tries.
    """

    def __init__(
        self,
        database: Database,
        statements: Statements,
        *,
        replica_id: str,
        lowers_channels: bool,
        logs_elsewhere: bool,
        moves_caches: bool,
        quarantine: Quarantine,
        delay_s: Callable[[int], float] = retry_delay_s,
        of_finished: bool = False,
    ) -> None:
        self._database = database
        self._lock = statements.lock
        self._statement = statements.settle
        self._replica_id = replica_id
        self._lowers_channels = lowers_channels
        self._logs_elsewhere = logs_elsewhere
        self._moves_caches = moves_caches
        self._of_finished = of_finished
        self._quarantine = quarantine
        self._delay_s = delay_s

    async def settle(self, settlements: Sequence[Settlement]) -> list[Settled]:
        """The fate of each settlement, one a task, in pk order.

        Ordinarily one transaction. Locks, deadlocks: up to 3 tries, then halves until the held task is alone and left
        as LOCKED. Data that cannot be stored: halves at once, and QUARANTINED, once more without ``data`` first.
        Raises DatabaseAway when the database stayed away and nothing was settled; when only a part was, the rest comes
        back as LOCKED. Raises Misconfigured when the gateway has become one of another profile.
        """
        run = _Run(uuid.uuid4())
        batch = []
        for one in sorted({each.task.pk: each for each in settlements}.values(), key=lambda each: each.task.pk):
            if is_sound(one):
                batch.append(one)
            else:
                run.refused.append(
                    (one, "bad_amount", "charged is no whole number in range, or a failure costs something")
                )
        try:
            if batch:
                await self._settle(run, batch, _WHOLE)
        except DatabaseAway as away:
            if not run.fates:
                raise
            for one in batch:
                run.fates.setdefault(one.task.pk, _left(one, Verdict.LOCKED, away.reason))
        if run.refused:
            await self._refuse(run)
        return [run.fates[pk] for pk in sorted(run.fates)]

    async def _settle(self, run: _Run, batch: list[Settlement], patience: _Patience) -> None:
        try:
            rows = await self._repeat(run, batch, patience)
        except StatementFailed as failure:
            if failure.fault is Fault.POISON and failure.sqlstate != _UNIQUE:
                await self._split_poison(run, batch, failure)
            else:
                await self._split_held(run, batch, failure)
        except _ShortError as short:
            if len(batch) > 1:
                await self._halve(run, batch)
            else:
                run.refused.append((batch[0], f"no_{short}", "a row that must change did not"))
        else:
            self._conclude(run, batch, rows)

    async def _repeat(self, run: _Run, batch: list[Settlement], patience: _Patience) -> list[Any]:
        """The rows of statement settle, committed. Raises what the last try raised."""
        tries = 0
        while True:
            tries += 1
            try:
                return await self._once(run.attempt, batch, patience.lock_s)
            except StatementFailed as failure:
                if failure.fault not in (Fault.LOCKED, Fault.RETRY_TX) or tries >= patience.tries:
                    raise
            except LedgerMissing:
                raise
            except DatabaseAway:
                # Also an unknown outcome: the ledger tells the repeat what became of it.
                if tries >= _WHOLE.tries:
                    raise
            await anyio.sleep(self._delay_s(tries))

    async def _once(self, attempt: uuid.UUID, batch: list[Settlement], lock_s: float) -> list[Any]:
        """One transaction, out of reach of any cancellation but its own deadline."""
        pks = [one.task.pk for one in batch]
        # What is settled as reserved moves no balance, so it need not wait for the rows of owners.
        movers = [one.task.pk for one in batch if one.charged is not None]
        try:
            with anyio.fail_after(_DEADLINE_S, shield=True):
                async with self._database.transaction(timeout_s=_STATEMENTS_S) as transaction:
                    reach("settle.begun")
                    limits = (str(int(lock_s * 1000)), self._lowers_channels)
                    (locked,) = await transaction.fetch(self._lock, pks, movers, *limits)
                    # From here on nobody can empty the ledger: having read it, the transaction keeps it locked.
                    if not locked["is_ledger_whole"]:
                        raise LedgerMissing("a settlement that it held is gone")
                    if not locked["is_of_profile"]:
                        raise Misconfigured(_OTHER_GATEWAY)
                    if locked["other_home"]:
                        raise OtherGateway(locked["other_home"], "another")
                    reach("settle.locked")
                    rows = await transaction.fetch(
                        self._statement,
                        *columns(batch),
                        attempt,
                        self._replica_id,
                        self._lowers_channels,
                        self._logs_elsewhere,
                        self._moves_caches,
                        self._of_finished,
                    )
                    reach("settle.written")
                    if short := rows[0]["short"]:
                        raise _ShortError(short)
                reach("settle.committed")
        except TimeoutError as error:
            raise DatabaseAway("timeout", "in settle") from error
        return rows

    # -- halves ------------------------------------------------------------------------------------------------------

    async def _halve(self, run: _Run, batch: list[Settlement]) -> None:
        middle = len(batch) // 2
        await self._settle(run, batch[:middle], _HALVES)
        await self._settle(run, batch[middle:], _HALVES)

    async def _split_held(self, run: _Run, batch: list[Settlement], failure: StatementFailed) -> None:
        """Somebody holds a row, a trigger refuses one, or the house is not in order: no task is to blame.

        The others are settled, it stays open and is said on every pass until it goes through.
        """
        if run.give_up_locks_s is None:
            run.give_up_locks_s = anyio.current_time() + _LOCK_BUDGET_S
        if len(batch) > 1 and anyio.current_time() < run.give_up_locks_s:
            await self._halve(run, batch)
            return
        for one in batch:
            run.fates[one.task.pk] = _left(one, Verdict.LOCKED, _held_reason(failure), failure.detail)

    async def _split_poison(self, run: _Run, batch: list[Settlement], failure: StatementFailed) -> None:
        if len(batch) > 1:
            await self._halve(run, batch)
            return
        (one,) = batch
        plain = replace(one, data=None, evidence="", fail_reason=clean_text(one.fail_reason, _REASON_LENGTH))
        if plain != one:
            # Odd JSON shall not hold money back.
            await self._settle(run, [plain], _HALVES)
        else:
            run.refused.append((one, _poison_reason(failure.sqlstate), failure.detail))

    # -- what came of it ---------------------------------------------------------------------------------------------

    def _conclude(self, run: _Run, batch: list[Settlement], rows: list[Any]) -> None:
        for one, row in zip(batch, rows, strict=True):
            verdict = Verdict(row["verdict"])
            if verdict is Verdict.QUARANTINED:
                run.refused.append((one, row["reason"], "the rows of the gateway do not allow it"))
                continue
            reserved, charged = row["reserved"], row["charged"]
            run.fates[one.task.pk] = Settled(
                one.task,
                verdict,
                Outcome(row["outcome"] or one.outcome),
                row["rule"],
                reserved,
                charged,
                reserved - charged,
            )

    async def _refuse(self, run: _Run) -> None:
        try:
            await self._quarantine([(one.task, reason, detail) for one, reason, detail in run.refused])
            reach("settle.refused")
        except Defer:
            # Not written down, so the next pass meets the same tasks again.
            verdict = Verdict.LOCKED
        else:
            verdict = Verdict.QUARANTINED
        for one, reason, detail in run.refused:
            run.fates[one.task.pk] = _left(one, verdict, reason, detail)


def _left(one: Settlement, verdict: Verdict, reason: str, detail: str = "") -> Settled:
    return Settled(one.task, verdict, one.outcome, one.rule, reason=reason, detail=detail)


def _held_reason(failure: StatementFailed) -> str:
    if failure.sqlstate == _UNIQUE:
        return "duplicate_key"
    return "refused" if failure.fault is Fault.BUG else failure.fault.value


def _poison_reason(sqlstate: str) -> str:
    if sqlstate == "22003":
        return "quota_overflow"
    return "constraint" if sqlstate.startswith("23") else "odd_data"
