"""How a command reads the settings, and how it opens the database: within a limit, with secrets out of sight."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import anyio

from poller.core.model import Secret
from poller.errors import DatabaseAway, Misconfigured, Unavailable
from poller.ops.log_lines import Redactor

if TYPE_CHECKING:
    from poller.postgres.pool import Database
    from poller.settings import Loaded, Settings

PATIENCE_S = 10.0
_PAUSE_S = 0.5

redactor = Redactor()
"""What this process knows of secrets, for lines that go past the logger."""


def read_settings(*, needs_database: bool = True) -> Loaded:
    """The settings of this process. Raises Misconfigured with all faults at once."""
    from poller import settings

    loaded = settings.load(settings.environment(), needs_database=needs_database)
    redactor.add(*secrets_of(loaded.settings))
    return loaded


def secrets_of(settings: Settings) -> list[Secret]:
    """Every secret among the settings."""
    return [value for value in vars(settings).values() if isinstance(value, Secret)]


@contextlib.asynccontextmanager
async def opened(settings: Settings, purpose: str, *, patience_s: float = PATIENCE_S) -> AsyncIterator[Database]:
    """The gateway's database for a one-shot command, which *purpose* names to the database.

    Raises Unavailable when it does not answer for *patience_s*, Misconfigured and NotPermitted at once.
    """
    from poller.postgres.pool import open_pool

    if settings.sql_dsn is None:
        raise Misconfigured("SQL_DSN (not set): the gateway's database is needed")
    give_up_s = anyio.current_time() + patience_s
    while True:
        try:
            database = await open_pool(
                settings.sql_dsn,
                max_open=2,
                max_idle=1,
                lifetime_s=settings.db_max_lifetime_s,
                application_name=f"poller/{purpose}",
            )
            break
        except DatabaseAway as away:
            if anyio.current_time() + _PAUSE_S > give_up_s:
                mend = "is it running, and does SQL_DSN name it?"
                raise Unavailable(f"database: {away}; tried for {patience_s:.0f} s: {mend}") from away
        await anyio.sleep(_PAUSE_S)
    try:
        yield database
    finally:
        await database.close()
