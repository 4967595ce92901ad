"""The other half of the composition root: adapters made from settings, and what every lane works with."""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import poller
from poller import deliver as delivering
from poller.core.clock import DatabaseClock
from poller.core.concurrency import Slots
from poller.core.model import Channel, Policy, StatusWords
from poller.core.passes import Rules
from poller.deliver import Deliveries
from poller.errors import Misconfigured, NotPermitted
from poller.gate import Gate
from poller.lane import Tools
from poller.ops.recorder import Recorder
from poller.postgres import profile, statements
from poller.postgres.audit import Auditor
from poller.postgres.home import see_home
from poller.postgres.leases import Leases
from poller.postgres.ledger import Ledger
from poller.postgres.logs_elsewhere import LogCourier, LogDatabase
from poller.postgres.migrate import may_create, migrate, verify
from poller.postgres.outbox import Outbox
from poller.postgres.pool import Database, open_pool
from poller.postgres.profile import Profile
from poller.postgres.statements import Statements
from poller.postgres.store import Store
from poller.postgres.watchman import Watchman
from poller.settings import Settings
from poller.upstream.client import Client, Limits
from poller.upstream.retrying import ask_with_retries

_PAGE_SIZE = 1000
_LOG_CONNECTIONS = 3
_LEAST_GRACE_S = 30.0
_LEAST_STALE_S = 300.0
_IDENTITY_REMEDY = "GRANT EXECUTE ON FUNCTION pg_control_system(), pg_current_wal_lsn(), pg_walfile_name(pg_lsn) TO ..."


@dataclass(frozen=True, slots=True)
class Parts:
    """The database side, opened and checked."""

    database: Database
    profile: Profile
    store: Store
    leases: Leases
    watchman: Watchman
    ledger: Ledger
    deliveries: Deliveries


def replica_id() -> str:
    """A name for this process that no other one has, now or later."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


@contextlib.asynccontextmanager
async def open_parts(settings: Settings, replica: str, recorder: Recorder, *, is_dry: bool) -> AsyncIterator[Parts]:
    """Connect, tell the profile, see to our schema, and build what stands on it.

    Raises DatabaseAway while nobody answers; Misconfigured and NotPermitted when the database is not what it must be.
    """
    assert settings.sql_dsn is not None
    database = await open_pool(
        settings.sql_dsn,
        max_open=settings.db_max_open_conns,
        max_idle=settings.db_max_idle_conns,
        lifetime_s=settings.db_max_lifetime_s,
        application_name=f"poller/{replica}",
        say_identity=recorder.database_identity,
    )
    try:
        found = await profile.detect(database, settings.schema)
        if not is_dry and await _made_schema(database, found, recorder):
            found = await profile.detect(database, settings.schema)
        known = statements.load(found.name)
        has_notes = not is_dry or await _has_schema(database)
        if has_notes:
            await see_home(database, is_claimed=not is_dry)
        store = make_store(settings, database, known, found, replica, has_notes=has_notes)
        recorder.event(
            "info",
            "database_opened",
            profile=found.name,
            why=found.why,
            index=found.has_index,
            pooler=database.is_pooled,
            server=str(database.server.identity or "unknown"),
        )
        if database.server.identity is None:
            recorder.event("warning", "database_identity_unreadable", remedy=_IDENTITY_REMEDY)
        leases = Leases(database, known, replica, settings.lease_ttl_s, version=poller.__version__)
        async with open_deliveries(settings, database, known, recorder) as deliveries:
            yield Parts(database, found, store, leases, Watchman(database, known), Ledger(database, known), deliveries)
    finally:
        await database.close()


@contextlib.asynccontextmanager
async def open_deliveries(
    settings: Settings, database: Database, known: Statements, recorder: delivering.Recorder
) -> AsyncIterator[Deliveries]:
    """Who hands over what settling leaves in the outbox; connects to nothing before there is something.

    Raises Misconfigured when the address of the cache cannot be read.
    """
    outbox = Outbox(database, known)
    couriers: dict[str, delivering.Courier] = {}
    async with contextlib.AsyncExitStack() as stack:
        if settings.logs_elsewhere:
            logs = LogDatabase(functools.partial(open_log_pool, settings))
            stack.push_async_callback(logs.close)
            couriers["log"] = LogCourier(logs, known)
        if settings.redis_conn_string is not None:
            # An optional package, so imported only where it is wanted.
            from poller.cache.redis import Cache, TokenCourier, UserCourier

            cache = Cache(settings.redis_conn_string, life_s=settings.sync_frequency_s)
            stack.push_async_callback(cache.close)
            couriers["user_cache"] = UserCourier(cache)
            couriers["token_cache"] = TokenCourier(cache, settings.crypto_secret, outbox.token_keys)
        yield Deliveries(outbox, couriers, recorder, max(_LEAST_STALE_S, 2 * settings.sync_frequency_s))


async def open_log_pool(settings: Settings) -> Database:
    """The gateway's log database. Raises DatabaseAway, Misconfigured and NotPermitted, naming LOG_SQL_DSN."""
    assert settings.log_sql_dsn is not None
    try:
        return await open_pool(
            settings.log_sql_dsn,
            max_open=_LOG_CONNECTIONS,
            max_idle=1,
            lifetime_s=settings.db_max_lifetime_s,
            application_name="poller/logs",
        )
    except (Misconfigured, NotPermitted) as wrong:
        raise type(wrong)(str(wrong).replace("SQL_DSN", "LOG_SQL_DSN")) from wrong


def make_store(
    settings: Settings, database: Database, known: Statements, found: Profile, replica: str, *, has_notes: bool = True
) -> Store:
    """The store as the settings want it: the same for the daemon and for whoever settles by hand."""
    return Store(
        database,
        known,
        found,
        base_words=settings.status_words,
        header_key=settings.header_key,
        cache_s=settings.sync_frequency_s if settings.memory_cache_enabled else 0.0,
        replica_id=replica,
        lower_channel_used_quota=settings.fork_lower_channel_used_quota,
        logs_elsewhere=settings.logs_elsewhere,
        moves_caches=settings.redis_conn_string is not None,
        has_notes=has_notes,
    )


def make_auditor(settings: Settings, parts: Parts, replica: str) -> Auditor:
    """The running audit; what a lane puts right within two passes is no drift."""
    return Auditor(
        parts.database,
        statements.load(parts.profile.name),
        replica_id=replica,
        grace_s=max(_LEAST_GRACE_S, 2 * settings.poll_interval_s),
        logs_elsewhere=settings.logs_elsewhere,
    )


async def _has_schema(database: Database) -> bool:
    try:
        await verify(database)
    except Misconfigured:
        return False
    return True


async def _made_schema(database: Database, found: Profile, recorder: Recorder) -> bool:
    """Make our schema where it is missing and we may; whether anything was made. Raises Misconfigured otherwise."""
    if await _has_schema(database):
        return False
    if not await may_create(database):
        await verify(database)
    recorder.event("info", "schema_migrating", schema="poller")
    done = await migrate(database, found.name)
    recorder.event("info", "schema_migrated", applied=", ".join(done.applied), index=done.index)
    return True


def rules(settings: Settings, *, is_patient: bool = True) -> Rules:
    """What the settings say about every lane."""

    def policy(words: StatusWords) -> Policy:
        return Policy(
            words=words,
            interval_s=settings.poll_interval_s,
            lifetime_s=settings.task_max_lifetime_s,
            deadline_refunds=settings.deadline_policy == "refund",
            not_found_count=settings.not_found_count,
            not_found_grace_s=settings.not_found_grace_s,
        )

    return Rules(
        policy=policy,
        clock=DatabaseClock(time.time() - time.monotonic()),
        base_words=settings.status_words,
        interval_s=settings.poll_interval_s,
        batch_size=settings.batch_size,
        page_size=max(_PAGE_SIZE, settings.batch_size),
        max_in_flight=settings.max_concurrent,
        max_refund_per_hour=settings.max_refund_per_hour,
        is_patient=is_patient,
    )


def tools(settings: Settings, parts: Parts, recorder: Recorder) -> Tools:
    """What every lane of this replica works with."""
    limits = Limits(
        task_timeout_s=settings.task_timeout_s,
        http_timeout_s=settings.http_timeout_s,
        max_response_bytes=settings.max_response_bytes,
        connections=settings.max_concurrent,
        ca_file=settings.ca_file,
        http_proxy=settings.http_proxy,
        https_proxy=settings.https_proxy,
        no_proxy=settings.no_proxy,
    )

    def open_client(channel: Channel) -> Client:
        return Client(channel, limits)

    retrying = functools.partial(
        ask_with_retries,
        retry_count=settings.retry_count,
        first_delay_s=settings.retry_delay_s,
        total_s=settings.task_timeout_s * (settings.retry_count + 1),
    )
    gate = Gate(Slots(settings.max_concurrent))
    return Tools(parts.store, parts.leases, gate, recorder, open_client, retrying)
