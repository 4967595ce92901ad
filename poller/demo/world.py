"""A gateway's database with tasks in it, and the check that the money in it is right afterwards.

The check is SQL of its own, told from what upstream really did: it knows nothing of how the daemon computes.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from typing import NamedTuple

import asyncpg

_FOLDER = resources.files("poller.demo")


class Truth(NamedTuple):
    """How a task really ended at upstream; tokens 0 where upstream reports no usage."""

    outcome: str
    """``SUCCESS`` or ``FAILURE``."""
    prompt: int
    completion: int


class Finding(NamedTuple):
    """One line of the money check."""

    name: str
    is_ok: bool
    detail: str


class Progress(NamedTuple):
    """How far the work is. Quota sums are those of the ledger."""

    tasks: int
    settled: int
    refunded: int
    charged: int
    by_channel: dict[int, tuple[int, int]]
    """Open and settled tasks by channel."""


def script(*path: str) -> str:
    """The text of a file that comes with the demo."""
    return _FOLDER.joinpath(*path).read_text("utf-8")


async def make_gateway(connection: asyncpg.Connection[asyncpg.Record], profile: str) -> None:
    """The tables of a gateway of *profile*, empty."""
    await connection.execute(script("schema", f"{profile}.sql"))


async def seed(
    connection: asyncpg.Connection[asyncpg.Record],
    profile: str,
    *,
    tasks: int,
    upstream: str,
    truth: Callable[[str], Truth],
) -> None:
    """Users, channels under the base URL *upstream*, prices, and *tasks* tasks that were charged up front.

    *truth* tells the end of a task by its upstream id; those named ``lost-…`` upstream has forgotten.
    """
    await connection.execute(script("sql", "common", "settings.sql").format(tasks=tasks, upstream=upstream))
    await connection.execute(script("sql", profile, "seed.sql"))
    await connection.execute(script("sql", "common", "before.sql"))
    rows = []
    for row in await connection.fetch(script("sql", profile, "ids.sql")):
        end = Truth("FAILURE", 0, 0) if row["upstream_id"].startswith("lost-") else truth(row["upstream_id"])
        rows.append((row["id"], end.outcome, end.prompt, end.completion))
    await connection.copy_records_to_table("truth", schema_name="demo", records=rows)
    await connection.execute(script("sql", "common", "analyze.sql"))


async def progress(connection: asyncpg.Connection[asyncpg.Record], profile: str) -> Progress:
    """How far the work is; nothing settled while schema ``poller`` is not there yet."""
    if not await connection.fetchval(script("sql", "common", "has_ledger.sql")):
        count = await connection.fetchval(script("sql", "common", "count.sql"))
        return Progress(count, 0, 0, 0, {})
    rows = await connection.fetch(script("sql", "common", "progress.sql"))
    return Progress(
        sum(row["tasks"] for row in rows),
        sum(row["settled"] for row in rows),
        sum(row["refunded"] for row in rows),
        sum(row["charged"] for row in rows),
        {row["channel_id"]: (row["tasks"] - row["settled"], row["settled"]) for row in rows},
    )


async def check(connection: asyncpg.Connection[asyncpg.Record], profile: str) -> list[Finding]:
    """The money check: every line must be ok."""
    rows = await connection.fetch(script("sql", profile, "check.sql"))
    return [Finding(row["name"], row["is_ok"], row["detail"]) for row in rows]
