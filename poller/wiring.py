"""The other half of the composition root: adapters made from settings, and what every lane works with."""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass

import poller
from poller.core.concurrency import Slots
from poller.core.model import Channel, Policy, StatusWords
from poller.errors import Misconfigured
from poller.gate import Gate
from poller.lane import Tools
from poller.ops.recorder import Recorder
from poller.postgres import profile, statements
from poller.postgres.leases import Leases
from poller.postgres.migrate import may_create, migrate, verify
from poller.postgres.pool import Database, open_pool
from poller.postgres.profile import Profile
from poller.postgres.store import Store
from poller.postgres.watchman import Watchman
from poller.settings import Settings
from poller.upstream.client import Client, Limits
from poller.upstream.retrying import ask_with_retries
from poller.walk import Rules

_PAGE_SIZE = 1000


@dataclass(frozen=True, slots=True)
class Parts:
    """The database side, opened and checked."""

    database: Database
    profile: Profile
    store: Store
    leases: Leases
    watchman: Watchman


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
    )
    try:
        found = await profile.detect(database, settings.schema)
        if not is_dry and await _made_schema(database, found, recorder):
            found = await profile.detect(database, settings.schema)
        known = statements.load(found.name)
        store = Store(
            database,
            known,
            found,
            base_words=settings.status_words,
            header_key=settings.header_key,
            cache_s=settings.sync_frequency_s if settings.memory_cache_enabled else 0.0,
            replica_id=replica,
            lower_channel_used_quota=settings.fork_lower_channel_used_quota,
            has_notes=not is_dry or await _has_schema(database),
        )
        recorder.event(
            "info",
            "database_opened",
            profile=found.name,
            why=found.why,
            index=found.has_index,
            pooler=database.is_pooled,
        )
        leases = Leases(database, known, replica, settings.lease_ttl_s, version=poller.__version__)
        yield Parts(database, found, store, leases, Watchman(database, known))
    finally:
        await database.close()


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
        base_words=settings.status_words,
        interval_s=settings.poll_interval_s,
        batch_size=settings.batch_size,
        page_size=max(_PAGE_SIZE, settings.batch_size),
        max_in_flight=settings.max_concurrent,
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
