"""The one classifier of everything that asyncpg and the network under it can throw, and what each becomes.

A killed backend shows in three unrelated exception families, so nothing else may look at asyncpg's types. Messages made
here hold names of classes, codes, tables and statements, never a parameter's value and never the DSN.
"""

from __future__ import annotations

import asyncio
import enum
import re

import asyncpg
from asyncpg import exceptions as pg

from poller.errors import DatabaseAway, Defer, LedgerMissing, Misconfigured, NotPermitted, PollerError


class Fault(enum.StrEnum):
    """What went wrong, by what the caller does next."""

    LOST = "lost"
    """The connection is gone and nothing was committed: new connection, whole transaction again."""
    UNKNOWN_OUTCOME = "unknown_outcome"
    """COMMIT was sent and no answer came: run the same idempotent work again."""
    OVERLOAD = "overload"
    """Out of connections, memory or disk: slow back-off."""
    RETRY_TX = "retry_tx"
    """Deadlock, serialization failure, stale plan: the whole transaction again, a few times."""
    LOCKED = "locked"
    """Somebody held a row or a statement ran too long: this work on the next pass."""
    POISON = "poison"
    """The data of one task cannot be stored: park that task."""
    WRONG_SERVER = "wrong_server"
    """Read-only, or not the session we took it for: drop the pool, connect anew."""
    PERMISSION = "permission"
    SCHEMA = "schema"
    BUG = "bug"


class StatementFailed(Defer):
    """The server refused a statement; its transaction was rolled back. *detail* names class, code and statement."""

    def __init__(self, fault: Fault, sqlstate: str, detail: str) -> None:
        super().__init__(f"{fault.value}: {detail}")
        self.fault = fault
        self.sqlstate = sqlstate
        self.detail = detail


class RightMissing(NotPermitted):
    """The role may not do what a statement does; *detail* names both, without a remedy."""

    def __init__(self, detail: str) -> None:
        super().__init__(f"database: {detail}; grant the role what deploy/postgres/grants-<profile>.sql lists")
        self.detail = detail


class CommitUnknown(DatabaseAway):
    """COMMIT was sent and its answer never came: all of it is in the database, or nothing. Never compensate, repeat."""

    def __init__(self, detail: str) -> None:
        super().__init__("commit_unknown", detail)


THROWN = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    EOFError,
    RuntimeError,
)
"""What a call into asyncpg may raise; a TimeoutError is an OSError."""

_BY_CODE = {
    "0A000": Fault.BUG,
    "25006": Fault.WRONG_SERVER,
    # A statement that we prepared is not there, or was there before: another session behind a pooler.
    "26000": Fault.WRONG_SERVER,
    "42P05": Fault.WRONG_SERVER,
    "3D000": Fault.SCHEMA,
    "3F000": Fault.SCHEMA,
    "40003": Fault.UNKNOWN_OUTCOME,
    "42501": Fault.PERMISSION,
    "42601": Fault.BUG,
    "42P08": Fault.POISON,
    "55006": Fault.LOCKED,
    "55P03": Fault.LOCKED,
    "57014": Fault.LOCKED,
}
_BY_CLASS = {
    "08": Fault.LOST,
    "22": Fault.POISON,
    "23": Fault.POISON,
    "28": Fault.PERMISSION,
    "40": Fault.RETRY_TX,
    "42": Fault.SCHEMA,
    "53": Fault.OVERLOAD,
    # Nested too deep, too many columns: the value's fault.
    "54": Fault.POISON,
    "57": Fault.LOST,
    "58": Fault.OVERLOAD,
}
_NO_TABLE, _LEDGER = "42P01", "poller.ledger"
_NO_CERTIFICATE = (
    "sslmode=verify-ca and verify-full need the certificate of the server's authority: name its file with sslrootcert, "
    "or put it at ~/.postgresql/root.crt"
)
_DSN_FAULTS = {
    "certificate": _NO_CERTIFICATE,
    "configuration directory": _NO_CERTIFICATE,
    "port numbers": "it names several ports, but not one for each host",
    "user name": "it names no user",
    "database name": "it names no database",
    "IPv6": "its host is no IPv6 address; wanted like [::1]",
    "direct TLS": "sslnegotiation=direct needs sslmode=require, verify-ca or verify-full",
    "sslnegotiation": "sslnegotiation must be postgres or direct",
    "TLS version": "ssl_min_protocol_version and ssl_max_protocol_version must be a version like TLSv1.2",
    "gsslib": "gsslib must be gssapi or sspi",
}
"""What asyncpg finds wrong with a DSN, by words of its own text, which may also hold parts of the DSN; in ours."""
_FUNCTION = re.compile(r'function "?([\w.]+)')
_REASONS = {
    "25006": "read_only",
    "53100": "disk_full",
    "53300": "too_many_clients",
    "57P01": "shutting_down",
    "57P02": "shutting_down",
    "57P03": "starting_up",
}


def classify(error: BaseException, *, commit_sent: bool) -> Fault:
    """Which Fault *error* is. *commit_sent*: a COMMIT was on its way and its answer is not known.

    The server's own refusal of a COMMIT (a deferred constraint, a serialization failure) is not an unknown outcome: it
    said that it rolled back.
    """
    fault = _classify(error)
    if commit_sent and fault in (Fault.LOST, Fault.BUG, Fault.WRONG_SERVER, Fault.OVERLOAD, Fault.LOCKED):
        return Fault.UNKNOWN_OUTCOME
    return fault


def _classify(error: BaseException) -> Fault:
    match error:
        case pg.InvalidCachedStatementError() | pg.OutdatedSchemaCacheError():
            return Fault.RETRY_TX
        case asyncpg.PostgresError():
            code = error.sqlstate or ""
            if code.startswith("42") and _is_theirs(error):
                return Fault.BUG
            return _BY_CODE.get(code) or _BY_CLASS.get(code[:2]) or Fault.BUG
        case pg.TargetServerAttributeNotMatched():
            return Fault.WRONG_SERVER
        case pg.ClientConfigurationError():
            return Fault.SCHEMA
        case pg.DataError():
            # asyncpg's own refusal to encode a parameter.
            return Fault.POISON
        case pg.UnsupportedClientFeatureError() | pg.UnsupportedServerFeatureError():
            return Fault.BUG
        case asyncpg.InterfaceError() | pg.InternalClientError():
            # Both are what a connection says that died under us, between statements or while sending.
            return Fault.LOST
        case OSError() | EOFError() | asyncio.CancelledError():
            # TimeoutError, socket.gaierror and ssl.SSLError are OSErrors.
            return Fault.LOST
        case RuntimeError() if "closed" in str(error):
            # uvloop's way to say that the transport is gone.
            return Fault.LOST
        case _:
            return Fault.BUG


def _is_theirs(error: asyncpg.PostgresError) -> bool:
    """Whether a function in the database failed, say a trigger: what that lacks is no fault of our role or schema."""
    return bool(getattr(error, "context", None))


def translated(error: BaseException, *, commit_sent: bool = False, statement: str = "") -> PollerError:
    """*error* as what leaves this package; raise it ``from error``. *statement* is the name that it happened in."""
    if isinstance(error, PollerError):
        return error
    fault = classify(error, commit_sent=commit_sent)
    sqlstate = (error.sqlstate or "") if isinstance(error, asyncpg.PostgresError) else ""
    detail = _detail(error, sqlstate, statement)
    match fault:
        case Fault.UNKNOWN_OUTCOME:
            return CommitUnknown(detail)
        case Fault.LOST | Fault.OVERLOAD | Fault.WRONG_SERVER:
            return DatabaseAway(_reason(error, fault, sqlstate), detail)
        case Fault.PERMISSION if sqlstate.startswith("28"):
            # A rotated password: work on open connections goes on, so this ends no process that runs.
            return DatabaseAway("auth_failed", detail)
        case Fault.PERMISSION:
            return RightMissing(detail)
        case Fault.SCHEMA if sqlstate == _NO_TABLE and _LEDGER in str(error):
            return LedgerMissing("there is no such table")
        case Fault.SCHEMA if isinstance(error, pg.ClientConfigurationError):
            return Misconfigured(f"SQL_DSN: {_dsn_fault(str(error))} ('poller check' shows what is set)")
        case Fault.SCHEMA:
            return Misconfigured(
                f"database: {detail}; a start of the daemon compares the schema with what is expected and names each "
                "difference; 'poller check' shows the settings"
            )
        case _:
            return StatementFailed(fault, sqlstate, detail)


def _dsn_fault(text: str) -> str:
    for words, fault in _DSN_FAULTS.items():
        if words in text:
            return fault
    return "no connection can be made with it as it stands"


def _reason(error: BaseException, fault: Fault, sqlstate: str) -> str:
    if isinstance(error, TimeoutError):
        return "timeout"
    return _REASONS.get(sqlstate) or ("read_only" if fault is Fault.WRONG_SERVER else fault.value)


def _detail(error: BaseException, sqlstate: str, statement: str) -> str:
    """Class, code and names. Only class 42 of our own statements is sure to speak of nothing else: other server texts
    may quote a value."""
    parts = [type(error).__name__]
    if sqlstate:
        parts.append(sqlstate)
    if isinstance(error, asyncpg.PostgresError) and _is_theirs(error):
        if found := _FUNCTION.search(str(error.context)):
            parts.append(f"raised by {found[1]}")
    elif sqlstate.startswith("42"):
        parts.append(str(error).splitlines()[0])
    elif isinstance(error, asyncpg.PostgresError):
        named = ((kind, getattr(error, f"{kind}_name", None)) for kind in ("table", "column", "constraint"))
        parts.extend(f"{kind} {name}" for kind, name in named if name)
    if statement:
        parts.append(f"in {statement}")
    return " ".join(parts)
