"""The money, told from the tables and from triggers that saw every change: SQL that knows nothing of the daemon's code.

``install`` puts the witnesses into a seeded test database; ``violations`` asks every question of ``invariants/checks``.
Each must return no row.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import asyncpg

_FOLDER = Path(__file__).parent / "invariants"
_SHOWN = 5

FREE_CLAIMS = "UPDATE poller.outbox SET due_at = now() WHERE due_at > now()"
SECOND_KEY = (
    "UPDATE channels SET key = 'retired-key' || chr(10) || key, channel_info = '{\"is_multi_key\": true}' WHERE id < 4"
)
"""Puts a key that upstream refuses before the one that it takes; ``documented`` knows no such thing.

The last channel has the tasks that upstream has forgotten: nothing is proved about them while a key is refused.
"""


class Violation(NamedTuple):
    """One invariant that does not hold, with the first few rows that show it."""

    name: str
    rows: int
    shown: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.rows} rows, such as {'; '.join(self.shown)}"


@cache
def checks() -> dict[str, str]:
    """The questions by name, in order."""
    return {path.stem: path.read_text() for path in sorted((_FOLDER / "checks").glob("*.sql"))}


@cache
def unfinished() -> str:
    """The questions that daemons which run and can work answer by themselves after a while, as one."""
    return " UNION ALL ".join(f"({checks()[name]})" for name in ("i11_nothing_open", "i17_notes", "i21_outbox"))


async def install(connection: asyncpg.Connection, profile: str) -> None:
    """Witnesses, what the profile owes, and the truth; ``demo`` holds the seed, and nothing has been settled yet."""
    await connection.execute((_FOLDER / "witness.sql").read_text())
    await connection.execute((_FOLDER / profile / "profile.sql").read_text())


async def handed_over(connection: asyncpg.Connection) -> dict[str, int]:
    """How much arrived outside of the database, by what a campaign calls it; and what never arrived, being in doubt."""
    (row,) = await connection.fetch(
        'SELECT (SELECT count(*) FROM inv.elsewhere) AS "lines elsewhere",'
        ' (SELECT count(*) FROM inv.moved) AS "balances moved",'
        ' (SELECT count(*) FROM inv.moves) - (SELECT count(*) FROM inv.moved) AS "balances not moved"'
    )
    return dict(row)


async def violations(connection: asyncpg.Connection, *, without: frozenset[str] = frozenset()) -> list[Violation]:
    """What does not hold; empty on a healthy database. *without* names questions that make no sense yet."""
    found = []
    for name, query in checks().items():
        if name in without:
            continue
        rows = await connection.fetch(query)
        if rows:
            shown = tuple(f"{row['id']} is {row['now']!r}, want {row['want']!r}" for row in rows[:_SHOWN])
            found.append(Violation(name, len(rows), shown))
    return found
