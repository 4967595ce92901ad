"""A pool of connections as the rest of this package sees it: each use bounded in time, every error translated.

What asyncpg leaves open is closed here: a dead peer makes ``acquire``, a statement, ROLLBACK and ``release`` hang, so
all have deadlines and a connection whose state is in doubt is cut, not returned. The session holds no state, so
that a pooler in transaction mode may stand in between; there each statement runs in a transaction of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import anyio
import asyncpg

from poller.errors import DatabaseAway
from poller.postgres.faults import THROWN, translated
from poller.postgres.identity import KnownServer, read_identity
from poller.postgres.statements import Statement, Statements

LOCK_S = 2.0
STATEMENT_S = 30.0
"""The server's own limits of a session, for the case that we are gone."""
COMMAND_S = 10.0
ACQUIRE_S = 5.0
_RELEASE_S = 2.0
_CUT_S = 1.0
_CLOSE_S = 3.0
_ELSEWHERE = frozenset({"read_only", "identity_changed"})
"""Reasons that mean that the address leads to another server now: every connection is made anew."""
_LINGER_S = 10.0
"""Connections above the idle limit stay for so long after they were last needed: a burst is seldom alone."""


async def _cut(connection: Any) -> None:
    """End *connection* within a second, whatever state it is in; its place in the pool is free afterwards.

    What the server still does for it is cancelled first, and that has to arrive: a session whose COMMIT waits for a
    standby notices neither that we are gone nor any of its time-outs, and would stay for ever.
    """
    with anyio.move_on_after(_CUT_S, shield=True), contextlib.suppress(*THROWN):
        await connection.close()
    with contextlib.suppress(asyncpg.InterfaceError):
        connection.terminate()


def _is_open(connection: Any) -> bool:
    try:
        return not connection.is_closed()
    except asyncpg.InterfaceError:
        # The proxy of a connection that already went back or died.
        return False


class Transaction:
    """An open transaction, or a session outside of any: runs statements until its deadline."""

    def __init__(self, connection: Any, deadline_s: float) -> None:
        self._connection = connection
        self._deadline_s = deadline_s

    async def fetch(self, statement: Statement, *args: object, timeout_s: float | None = None) -> list[asyncpg.Record]:
        """All rows of *statement*, within *timeout_s* and the deadline of the whole, whichever is sooner.

        Raises DatabaseAway (the connection is then cut), StatementFailed, NotPermitted, Misconfigured.
        """
        async with self._guard(statement.name):
            return await self._connection.fetch(statement.text, *args, timeout=self._left_s(timeout_s))  # type: ignore[no-any-return]

    async def run(self, name: str, script: str, *, timeout_s: float | None = None) -> None:
        """Run *script*, which may hold several statements and takes no parameters; *name* stands in errors."""
        async with self._guard(name):
            await self._connection.execute(script, timeout=self._left_s(timeout_s))

    def _left_s(self, timeout_s: float | None) -> float:
        left_s = self._deadline_s - asyncio.get_running_loop().time()
        return max(0.001, left_s if timeout_s is None else min(left_s, timeout_s))

    @contextlib.asynccontextmanager
    async def _guard(self, name: str) -> AsyncIterator[None]:
        try:
            yield
        except THROWN as error:
            failure = translated(error, statement=name)
            if isinstance(failure, DatabaseAway):
                await _cut(self._connection)
            raise failure from error


class Database:
    """A pool of connections to one database. Made by ``open_pool``.

    One connection is kept for transactions: reads, however many and slow, never keep a settlement waiting.
    """

    def __init__(
        self,
        pool: Any,
        own: Statements,
        *,
        address: str,
        is_pooled: bool,
        version: int,
        server: KnownServer,
        max_open: int,
        max_idle: int,
        lifetime_s: float,
        acquire_timeout_s: float,
    ) -> None:
        self.is_pooled = is_pooled
        """Whether a pooler such as PgBouncer stands in between."""
        self.version = version
        """``server_version_num``, such as 150018."""
        self.server = server
        self._address = address
        self._pool = pool
        self._own = own
        self._max_open = max_open
        self._max_idle = max_idle
        self._busy_s = asyncio.get_running_loop().time()
        self._lifetime_s = lifetime_s
        self._acquire_s = acquire_timeout_s
        self._reads = anyio.Semaphore(max(1, max_open - 1))

    async def fetch(self, statement: Statement, *args: object, timeout_s: float = COMMAND_S) -> list[asyncpg.Record]:
        """All rows of *statement*, run on its own; repeat it after DatabaseAway only if a repeat is harmless.

        Raises DatabaseAway, StatementFailed, NotPermitted, Misconfigured. Takes at most ``5 s + timeout_s`` (and a
        commit, behind a pooler).
        """
        try:
            with anyio.fail_after(self._acquire_s):
                await self._reads.acquire()
        except TimeoutError as error:
            raise DatabaseAway("pool_timeout", f"all connections busy, in {statement.name}") from error
        try:
            if self.is_pooled:
                # Between the two steps of a statement a pooler may change the server under us; not in a transaction.
                async with self.transaction(timeout_s=timeout_s) as transaction:
                    return await transaction.fetch(statement, *args)
            async with self._connection(statement.name) as connection:
                return await self._until(connection, timeout_s).fetch(statement, *args)
        finally:
            self._reads.release()

    @contextlib.asynccontextmanager
    async def transaction(
        self, *, timeout_s: float = 15.0, lock_timeout_s: float = LOCK_S
    ) -> AsyncIterator[Transaction]:
        """A transaction that commits at the end of the block and rolls back on any error in it.

        All its statements together get *timeout_s*, COMMIT some seconds more. Raises CommitUnknown when COMMIT was sent
        and no answer came; every other error means that nothing was committed. An exception from the block passes
        unchanged. When the task is cancelled the connection is cut: inside the block nothing is committed then, during
        COMMIT that is not known, so work whose fate matters runs in a shielded scope.
        """
        async with self._connection("begin") as connection:
            thrown: BaseException | None = None
            is_commit_sent = False
            try:
                async with connection.transaction():
                    transaction = self._until(connection, timeout_s)
                    limits = (str(int(lock_timeout_s * 1000)), str(int(STATEMENT_S * 1000)))
                    if self.is_pooled and self.server.identity is not None:
                        (row,) = await transaction.fetch(self._own.limits_known, *limits)
                        self.server.meet(read_identity(row))
                    elif self.is_pooled or lock_timeout_s != LOCK_S:
                        await transaction.fetch(self._own.limits, *limits)
                    try:
                        yield transaction
                    except BaseException as error:
                        thrown = error
                        if isinstance(error, DatabaseAway) or not isinstance(error, Exception):
                            await _cut(connection)
                        raise
                    is_commit_sent = _is_open(connection)
            except THROWN as error:
                if error is thrown:
                    raise
                await _cut(connection)
                if thrown is not None:
                    # ROLLBACK failed, or found the connection cut: what happened in the block is the news.
                    raise thrown from thrown.__cause__
                failure = translated(
                    error, commit_sent=is_commit_sent, statement="commit" if is_commit_sent else "begin"
                )
                raise failure from error

    @contextlib.asynccontextmanager
    async def session(self, *, timeout_s: float) -> AsyncIterator[Transaction]:
        """A connection outside of any transaction, without the server's time limits, closed afterwards.

        For what needs one session (advisory locks) or no transaction (CREATE INDEX CONCURRENTLY).
        """
        async with self._connection("session") as connection:
            session = self._until(connection, timeout_s)
            try:
                await session.fetch(self._own.no_limits)
                yield session
            finally:
                await _cut(connection)

    def sizes(self) -> dict[str, int]:
        """Connections by state: ``open`` (all), ``idle``, ``in_use``, and the limit ``max``."""
        size, idle = self._pool.get_size(), self._pool.get_idle_size()
        return {"open": size, "idle": idle, "in_use": size - idle, "max": self._max_open}

    async def close(self) -> None:
        """Close all connections, those in use within 3 s, then cut what is left."""
        with anyio.move_on_after(_CLOSE_S, shield=True), contextlib.suppress(*THROWN):
            await self._pool.close()
        self._pool.terminate()

    def _until(self, connection: Any, timeout_s: float) -> Transaction:
        return Transaction(connection, asyncio.get_running_loop().time() + timeout_s)

    @contextlib.asynccontextmanager
    async def _connection(self, name: str) -> AsyncIterator[Any]:
        try:
            connection = await self._acquired(name)
            try:
                yield connection
            except BaseException as error:
                if isinstance(error, DatabaseAway) or not isinstance(error, Exception):
                    await _cut(connection)
                raise
            finally:
                await self._release(connection)
        except DatabaseAway as away:
            if away.reason in _ELSEWHERE:
                await self._pool.expire_connections()
            raise

    async def _acquired(self, name: str) -> Any:
        while True:
            try:
                connection = await self._pool.acquire(timeout=self._acquire_s)
            except TimeoutError as error:
                is_full = self._pool.get_size() >= self._max_open and not self._pool.get_idle_size()
                raise DatabaseAway(
                    "pool_timeout" if is_full else "connect_timeout", f"in {name} at {self._address}"
                ) from error
            except THROWN as error:
                raise translated(error, statement=f"{name} at {self._address}") from error
            if not self.server.is_left_behind(connection.identity):
                return connection
            await _cut(connection)

    def _is_surplus(self, opened_s: float) -> bool:
        """Whether a connection that nobody uses any more is too old, or one too many after a quiet while."""
        now_s = asyncio.get_running_loop().time()
        idle = self._pool.get_idle_size()
        if self._pool.get_size() - idle > self._max_idle:
            self._busy_s = now_s
        is_quiet = now_s - self._busy_s > _LINGER_S
        return now_s - opened_s > self._lifetime_s or (is_quiet and idle >= self._max_idle)

    async def _release(self, connection: Any) -> None:
        if not _is_open(connection):
            return
        try:
            if self._is_surplus(connection.opened_s):
                await connection.close(timeout=_RELEASE_S)
            else:
                await self._pool.release(connection, timeout=_RELEASE_S)
        except THROWN:
            await _cut(connection)
