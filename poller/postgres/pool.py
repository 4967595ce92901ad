"""Opens the pool of connections to the gateway's database, after a first look at what answers there."""

from __future__ import annotations

import asyncio
import functools
import re
from typing import Any

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from poller.core.model import Secret
from poller.errors import DatabaseAway, Misconfigured, NotPermitted, PollerError
from poller.postgres.database import ACQUIRE_S, COMMAND_S, LOCK_S, STATEMENT_S, Database, Transaction
from poller.postgres.dsn import Target, read_dsn
from poller.postgres.faults import THROWN, translated
from poller.postgres.identity import Identity, KnownServer, Say, read_identity
from poller.postgres.statements import Statements, load_own

__all__ = ["Database", "Transaction", "open_pool"]

_IDLE_S = 60.0
"""A connection unused for so long is closed: a load balancer may have forgotten it."""

_REFUSED_SETTINGS = frozenset({"42704", "22023", "55P02", "42602"})
_PARAMETER = re.compile(r'parameter "([\w.]{1,63})"')

_SESSION = {
    "lock_timeout": str(int(LOCK_S * 1000)),
    "statement_timeout": str(int(STATEMENT_S * 1000)),
    "idle_in_transaction_session_timeout": "30000",
    # Compiling costs more than any of our statements takes.
    "jit": "off",
    # A replica that lost its network holds no locks for longer than a minute.
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}


class _Connection(asyncpg.Connection):
    opened_s = 0.0
    identity: Identity | None = None


async def _keep_as_is(_connection: Any) -> None:
    """Instead of asyncpg's reset of the session at each release: one round trip less, and there is nothing to reset."""


async def _connect(*args: Any, own: Statements, **options: Any) -> Any:
    """A connection to a server that takes writes; of several in the DSN the first that says so at log-in.

    A pooler tells for ever what the first server told it, also when that was promoted since: who is turned away by it
    asks the server itself.
    """
    try:
        return await asyncpg.connect(*args, target_session_attrs=SessionAttribute.read_write, **options)
    except asyncpg.TargetServerAttributeNotMatched:
        connection = await asyncpg.connect(*args, target_session_attrs=SessionAttribute.any, **options)
        try:
            async with connection.transaction():
                is_read_only = await connection.fetchval(own.is_read_only.text)
            if is_read_only:
                raise
        except BaseException:
            connection.terminate()
            raise
        return connection


async def open_pool(
    dsn: Secret,
    *,
    max_open: int,
    max_idle: int,
    lifetime_s: float,
    application_name: str,
    connect_timeout_s: float = 5.0,
    acquire_timeout_s: float = ACQUIRE_S,
    command_timeout_s: float = COMMAND_S,
    say_identity: Say | None = None,
) -> Database:
    """Connect once, see what answers, and open the pool.

    At most *max_open* connections; *max_idle* of them stay when nothing is to be done, for a minute. A connection ends
    after *lifetime_s* (0: an hour). *command_timeout_s* bounds BEGIN, COMMIT and ROLLBACK each, *acquire_timeout_s* the
    wait for a free connection. *say_identity* is told when another server answers than the first time: see
    ``identity``. Raises DatabaseAway while nobody answers, NotPermitted when the log-in is refused,
    Misconfigured for a bad DSN or an unknown database.
    """
    target = read_dsn(dsn)
    own = load_own()
    settings = target.settings | {"application_name": application_name[:63]}
    is_pooled, version, identity = await _first_look(target, own, settings, connect_timeout_s)
    if not is_pooled:
        settings = _SESSION | settings
    server = KnownServer(identity, say_identity)

    async def greet(connection: Any) -> None:
        connection.opened_s = asyncio.get_running_loop().time()
        if server.identity is not None and not is_pooled:
            connection.identity = await _identity(connection, own)
            server.meet(connection.identity)

    try:
        pool = await asyncpg.create_pool(
            target.dsn.reveal(),
            # A floor would be restored in the background, with a traceback in the log for each failure.
            min_size=0,
            max_size=max_open,
            max_inactive_connection_lifetime=_IDLE_S,
            connection_class=_Connection,
            init=greet,
            reset=_keep_as_is,
            timeout=connect_timeout_s,
            command_timeout=command_timeout_s,
            statement_cache_size=0 if is_pooled else 100,
            server_settings=settings,
            connect=functools.partial(_connect, own=own),
        )
    except THROWN as error:
        raise _refusal(error, target) from error
    return Database(
        pool,
        own,
        address=target.address,
        is_pooled=is_pooled,
        version=version,
        server=server,
        max_open=max_open,
        max_idle=max_idle,
        lifetime_s=lifetime_s or 3600.0,
        acquire_timeout_s=acquire_timeout_s,
    )


async def _first_look(
    target: Target, own: Statements, settings: dict[str, str], timeout_s: float
) -> tuple[bool, int, Identity | None]:
    """Whether a pooler answers, the server's version, and who it is; on a connection that any pooler accepts."""
    try:
        connection = await _connect(
            target.dsn.reveal(),
            own=own,
            timeout=timeout_s,
            command_timeout=timeout_s,
            statement_cache_size=0,
            server_settings=settings,
        )
    except THROWN as error:
        raise _refusal(error, target) from error
    try:
        async with connection.transaction():
            (row,) = await connection.fetch(own.backend_pid.text)
        # A pooler makes up the process id that it tells at log-in.
        return row["pid"] != connection.get_server_pid(), row["version"], await _identity(connection, own)
    except THROWN as error:
        raise _refusal(error, target) from error
    finally:
        connection.terminate()


async def _identity(connection: Any, own: Statements) -> Identity | None:
    """Who the server is; None where it does not tell us."""
    try:
        async with connection.transaction():
            return read_identity(await connection.fetchrow(own.identity.text))
    except asyncpg.PostgresError as error:
        if isinstance(failure := translated(error), DatabaseAway):
            raise failure from error
        return None


def _refusal(error: BaseException, target: Target) -> PollerError:
    """What ends a start: unlike later, a refused log-in is final then."""
    failure = translated(error, statement=f"connect to {target.address}")
    if isinstance(failure, DatabaseAway) and failure.reason == "auth_failed":
        return NotPermitted("database: log-in refused; check user and password in SQL_DSN, and pg_hba.conf")
    if isinstance(error, asyncpg.InvalidCatalogNameError):
        return Misconfigured("SQL_DSN: no such database on that server")
    if isinstance(error, asyncpg.PostgresError) and error.sqlstate in _REFUSED_SETTINGS:
        named = _PARAMETER.search(str(error))
        which = f"its parameter {named[1]}" if named else "one of its parameters"
        return Misconfigured(f"SQL_DSN: the server does not take {which}: mend it, or take it out")
    return failure
