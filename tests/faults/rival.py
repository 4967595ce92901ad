"""What a gateway does to the same rows meanwhile: balances, whole-row saves, locks, its own sweep, DDL, deletions.

Everything it means to do is entered in ``inv.operator`` in the transaction of the deed, so that the checker can tell it
from what the daemon did, also after a failover that lost it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable

import anyio
import asyncpg

_AWAY = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
_FINAL = {"documented": ("completed", "failed"), "fork": ("SUCCESS", "FAILURE"), "main": ("SUCCESS", "FAILURE")}
SWEPT, SAVED = (3,), (4, 5, 6)
"""Last digits of the tasks that the sweep may end and that a stale save may open again: never the same."""
DELETED_USER = 49


class Rival:
    """Sessions of a gateway on one database. ``did`` counts what really happened."""

    def __init__(self, profile: str, dsn: Callable[[], str], chance: random.Random) -> None:
        self.did: Counter[str] = Counter()
        self._profile = profile
        self._dsn = dsn
        self._chance = chance

    async def run(self, habits: tuple[str, ...], *, busy_s: float = 0.02) -> None:
        """Follow each of *habits* over and over until cancelled; a database that is away is waited out."""
        async with anyio.create_task_group() as group:
            for habit in habits:
                group.start_soon(self._repeat, getattr(self, f"_{habit}"), busy_s)

    async def _repeat(self, habit: Callable[[asyncpg.Connection], Awaitable[None]], busy_s: float) -> None:
        while True:
            connection: asyncpg.Connection | None = None
            try:
                connection = await asyncpg.connect(
                    self._dsn(), timeout=5, server_settings={"application_name": "gateway", "deadlock_timeout": "100ms"}
                )
                while True:
                    try:
                        await habit(connection)
                    except asyncpg.DeadlockDetectedError:
                        self.did["deadlock"] += 1
                    await anyio.sleep(self._chance.random() * busy_s * 2)
            except _AWAY:
                await anyio.sleep(0.1)
            finally:
                if connection is not None:
                    connection.terminate()

    # -- habits ------------------------------------------------------------------------------------------------------

    async def _spend(self, db: asyncpg.Connection) -> None:
        """A user spends or tops up: one relative update."""
        user, delta = self._chance.randint(1, 48), self._chance.randint(-50, 50)
        self.did["spend"] += await self._move(db, "users", "quota", user, delta)

    async def _flush(self, db: asyncpg.Connection) -> None:
        """Batched counters go out as relative updates, a row a statement, without a transaction around them."""
        for user in self._chance.sample(range(1, 49), 5):
            self.did["flush"] += await self._move(db, "users", "used_quota", user, self._chance.randint(0, 9))
            if self._profile != "documented":
                await self._move(db, "users", "request_count", user, 1)
                await self._move(db, "tokens", "remain_quota", user, -self._chance.randint(0, 9))
                await self._move(db, "channels", "used_quota", user % 4 + 1, self._chance.randint(0, 9))

    async def _save(self, db: asyncpg.Connection) -> None:
        """``DB.Save(task)``: every column, from a struct that was read a while ago, without any guard."""
        row = await db.fetchrow(
            "SELECT * FROM tasks WHERE status <> ALL($1) AND id % 10 = ANY($2) AND platform = 'custompass'"
            " ORDER BY random() LIMIT 1",
            list(_FINAL[self._profile]),
            list(SAVED),
        )
        if row is None:
            return
        await anyio.sleep(self._chance.random() * 0.6)
        names = [name for name in row.keys() if name != "id"]  # noqa: SIM118 - a record iterates over its values
        assignments = ", ".join(f'"{name}" = ${place}' for place, name in enumerate(names, 2))
        before = await db.fetchval(
            "WITH old AS (SELECT status FROM tasks WHERE id = $1),"
            f" saved AS (UPDATE tasks SET {assignments} WHERE id = $1) SELECT status FROM old",
            row["id"],
            *(row[name] for name in names),
        )
        self.did["save"] += before is not None
        self.did["reopening"] += before in _FINAL[self._profile]

    async def _sweep(self, db: asyncpg.Connection) -> None:
        """The gateway's own time-out: compare and swap to failed, then the refund in statements of its own."""
        failed = _FINAL[self._profile][1]
        row = await db.fetchrow(
            "SELECT * FROM tasks WHERE status <> ALL($1) AND id % 10 = ANY($2) AND platform = 'custompass'"
            " ORDER BY random() LIMIT 1",
            list(_FINAL[self._profile]),
            list(SWEPT),
        )
        if row is None:
            return
        await anyio.sleep(self._chance.random() * 0.2)
        async with db.transaction():
            won = await db.fetchval(
                "UPDATE tasks SET status = $2, progress = '100%', fail_reason = 'timeout' WHERE id = $1 AND status = $3"
                " RETURNING id",
                row["id"],
                failed,
                row["status"],
            )
            if won:
                await db.execute("INSERT INTO inv.operator (what, row_id) VALUES ('task.finalized', $1)", won)
        if won:
            self.did["sweep"] += 1
            await self._move(db, "users", "quota", row["user_id"], row["quota"])
        else:
            self.did["sweep_lost"] += 1

    async def _hold(self, db: asyncpg.Connection) -> None:
        """Keep rows that a settlement needs locked, for a moment or beyond its patience."""
        table = self._chance.choice(["users", "users", "tasks", "channels", *(["tokens"] * (self._profile == "main"))])
        async with db.transaction():
            await db.fetch(
                f"SELECT id FROM {table} WHERE id % 7 = $1 ORDER BY id DESC FOR UPDATE", self._chance.randint(0, 6)
            )
            self.did["hold"] += 1
            await anyio.sleep(self._chance.choice([0.01, 0.1, 0.3, 2.5]))

    async def _cross(self, db: asyncpg.Connection) -> None:
        """Take users and tasks in the order opposite to ours: sooner or later a deadlock."""
        async with db.transaction():
            for user in sorted(self._chance.sample(range(1, 49), 3), reverse=True):
                await db.execute("UPDATE users SET quota = quota WHERE id = $1", user)
                await anyio.sleep(0.01)
            task = await db.fetchval(
                "SELECT id FROM tasks WHERE user_id = $1 AND status <> ALL($2) LIMIT 1",
                user,
                list(_FINAL[self._profile]),
            )
            if task:
                await db.fetch("SELECT id FROM tasks WHERE id = $1 FOR UPDATE", task)
        self.did["cross"] += 1

    async def _migrate(self, db: asyncpg.Connection) -> None:
        """AutoMigrate: a column comes and goes under statements that are prepared."""
        await db.execute("SET lock_timeout = '200ms'")
        try:
            await db.execute("ALTER TABLE channels ADD COLUMN IF NOT EXISTS inv_spare text")
            await db.execute("ALTER TABLE channels DROP COLUMN IF EXISTS inv_spare")
        except asyncpg.LockNotAvailableError:
            return
        self.did["migrate"] += 1
        await anyio.sleep(0.2)

    async def _delete(self, db: asyncpg.Connection) -> None:
        """A task row and a user vanish."""
        pk = await db.fetchval(
            "SELECT id FROM tasks WHERE status <> ALL($1) AND id % 27 = 13 ORDER BY random() LIMIT 1",
            list(_FINAL[self._profile]),
        )
        async with db.transaction():
            gone = await db.fetchval("DELETE FROM tasks WHERE id = $1 RETURNING id", pk)
            if gone:
                await db.execute("INSERT INTO inv.operator (what, row_id) VALUES ('task.deleted', $1)", gone)
                self.did["delete"] += 1
        if self._chance.random() < 0.4:
            async with db.transaction():
                gone = await db.fetchval("DELETE FROM users WHERE id = $1 RETURNING id", DELETED_USER)
                if gone:
                    await db.execute("INSERT INTO inv.operator (what, row_id) VALUES ('user.deleted', $1)", gone)
                    self.did["user_deleted"] += 1
        await anyio.sleep(0.2)

    async def _move(self, db: asyncpg.Connection, table: str, column: str, pk: int, delta: int) -> bool:
        async with db.transaction():
            moved = await db.fetchval(
                f"UPDATE {table} SET {column} = coalesce({column}, 0) + $2 WHERE id = $1 RETURNING id", pk, delta
            )
            if moved:
                await db.execute(
                    "INSERT INTO inv.operator (what, row_id, delta) VALUES ($1, $2, $3)", f"{table}.{column}", pk, delta
                )
        self.did["move"] += bool(moved)
        return bool(moved)
