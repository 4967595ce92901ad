"""Makes schema ``poller`` and the index over active tasks, or prints the SQL for somebody who may.

Each migration is one transaction that first tries an advisory lock; who does not get it comes back. Nobody ever waits
for that lock inside the database, because a waiting session would keep CREATE INDEX CONCURRENTLY from ending.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from typing import NamedTuple

import anyio

from poller.errors import Misconfigured, NotPermitted, Unavailable
from poller.postgres.faults import RightMissing
from poller.postgres.pool import Database, Transaction
from poller.postgres.statements import Statements, load, load_own

_OWNERS_WORK = "run it as the owner of the database, or give a DBA what 'poller migrate --print' prints"
_LOCK_TRIES_S = 60.0
_LOCK_PAUSE_S = 0.1
_MIGRATION_S = 60.0
_INDEX_S = 3600.0
"""The index is built by reading the whole of ``tasks`` twice, and waits for every transaction older than itself."""


class Migration(NamedTuple):
    """One file of ``migrations/``: ``0001_poller.sql`` is version 1, name ``poller``."""

    version: int
    name: str
    script: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Migrated:
    """What ``migrate`` did."""

    applied: tuple[str, ...]
    """Names of the migrations that this call applied."""
    index: str
    """``created``, ``repaired`` (it was INVALID), ``kept``, or ``not_permitted``: only the owner of tasks may."""


def migrations() -> list[Migration]:
    """The migrations that this program brings, in order."""
    folder = resources.files("poller.postgres") / "migrations"
    found = []
    for file in sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name):
        version, _, name = file.name.removesuffix(".sql").partition("_")
        content = file.read_bytes()
        found.append(Migration(int(version), name, content.decode(), hashlib.sha256(content).hexdigest()))
    return found


def plan(profile: str) -> str:
    """All the SQL that ``migrate`` would run on an empty database, to be read and run by a DBA with psql.

    The index is the last statement and must stay outside of any transaction.
    """
    statements = load(profile)
    frame = (resources.files("poller.postgres") / "sql" / "plan" / "migration.sql").read_text("utf-8")
    parts = []
    for migration in migrations():
        record = statements.record_migration.text
        for place, value in enumerate((migration.version, migration.name, migration.sha256), start=1):
            record = record.replace(f"${place}", f"'{value}'")
        head = f"-- {migration.version:04d} {migration.name}\n"
        parts.append(head + frame.format(script=migration.script.strip(), record=record))
    parts.append(f"-- the index, for profile {profile}; outside of any transaction\n{statements.index.text};\n")
    return "\n".join(parts)


async def migrate(database: Database, profile: str) -> Migrated:
    """Bring schema and index up to date. Doing it twice, or twice at once, is harmless.

    Raises Misconfigured behind a pooler, or when the schema is newer than this program or was changed by hand;
    NotPermitted when the role may not make the schema (an index that it may not make is only reported); Unavailable
    when somebody else migrates for more than a minute.
    """
    if database.is_pooled:
        raise Misconfigured(
            "migrate: a pooler stands between; the index needs a direct connection: point SQL_DSN at PostgreSQL itself "
            "for this command, or run what 'poller migrate --print' prints"
        )
    statements = load(profile)
    try:
        applied = [
            f"{migration.version:04d} {migration.name}"
            for migration in migrations()
            if await _apply(database, statements, migration)
        ]
    except RightMissing as refused:
        raise NotPermitted(f"migrate: {refused.detail}; {_OWNERS_WORK}") from refused
    return Migrated(tuple(applied), await _build_index(database, statements))


async def verify(database: Database) -> None:
    """Return when the schema is the one that this program was written for.

    Raises Misconfigured, with the remedy, when it is missing, older, newer or changed by hand.
    """
    own = load_own()
    known = migrations()
    done = await _applied(database, own)
    missing = [migration.name for migration in known if migration.version not in done]
    if not done:
        raise Misconfigured(
            "schema poller is missing: run 'poller migrate', or let a DBA run what 'poller migrate --print' prints"
        )
    _check(done, known)
    if missing:
        raise Misconfigured(
            f"schema poller is older than this program, it lacks {', '.join(missing)}: run 'poller migrate', or let a "
            "DBA run what 'poller migrate --print' prints"
        )


async def may_create(database: Database) -> bool:
    """Whether this role may make or upgrade schema ``poller`` here (the index is another matter, and not needed)."""
    ((_, may),) = await database.fetch(load_own().has_migrations)
    return bool(may)


async def _applied(database: Database | Transaction, own: Statements) -> dict[int, str]:
    """Checksums of what was applied, by version; empty where the schema was never made."""
    ((is_there, _),) = await database.fetch(own.has_migrations)
    if not is_there:
        return {}
    return {row["version"]: row["sha256"] for row in await database.fetch(own.migrations)}


def _check(done: dict[int, str], known: list[Migration]) -> None:
    if newer := sorted(done.keys() - {migration.version for migration in known}):
        raise Misconfigured(
            f"schema poller has version {newer[-1]}, newer than this program: run the one that made it, or a later one"
        )
    for migration in known:
        if migration.version in done and done[migration.version] != migration.sha256:
            raise Misconfigured(
                f"schema poller: migration {migration.version:04d} {migration.name} was applied from another file than "
                "the one in this program; compare with 'poller migrate --print' and mend poller.migration by hand"
            )


async def _apply(database: Database, statements: Statements, migration: Migration) -> bool:
    """Apply one migration under the lock, unless somebody did; whether this call did."""
    give_up_s = anyio.current_time() + _LOCK_TRIES_S
    while anyio.current_time() < give_up_s:
        async with database.transaction(timeout_s=_MIGRATION_S, lock_timeout_s=10.0) as transaction:
            ((is_locked,),) = await transaction.fetch(statements.lock_migration)
            if is_locked:
                done = await _applied(transaction, statements)
                _check(done, migrations())
                if migration.version in done:
                    return False
                await transaction.run(f"migration {migration.version:04d}", migration.script)
                await transaction.fetch(
                    statements.record_migration, migration.version, migration.name, migration.sha256
                )
        if is_locked:
            return True
        await anyio.sleep(_LOCK_PAUSE_S)
    raise Unavailable(f"migrate: somebody else has been migrating for {_LOCK_TRIES_S:.0f} s; try again")


async def _build_index(database: Database, statements: Statements) -> str:
    async with database.session(timeout_s=_INDEX_S) as session:
        while True:
            state = await session.fetch(statements.index_state)
            if state and state[0]["is_valid"]:
                return "kept"
            ((is_locked,),) = await session.fetch(statements.lock_index)
            if is_locked:
                break
            # Somebody is building it now; until then it is invalid, and not a left-over.
            await anyio.sleep(_LOCK_PAUSE_S)
        state = await session.fetch(statements.index_state)
        if state and state[0]["is_valid"]:
            return "kept"
        try:
            if state:
                await session.run("drop_index", statements.drop_index.text)
            await session.run("index", statements.index.text)
        except NotPermitted:
            return "not_permitted"
    return "repaired" if state else "created"
