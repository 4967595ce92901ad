"""What a person sees of tasks and may do to them by hand: reads of any row, requeueing, and the record of who did it.

Money never moves here: a hand settles through ``settle.Settler`` like everybody else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from poller.core.channels import ChannelRow, read_channel
from poller.core.model import Channel, StatusWords, Task
from poller.postgres.database import Database
from poller.postgres.rows import NOTHING, Note, read_task
from poller.postgres.statements import Statements

_TIMEOUT_S: Final = 30.0
"""Finding a task by its id may read the whole table once, where it has no index."""
_LARGEST_PK: Final = 2**63 - 1
_LONGEST_KEY: Final = 19
_PK_PREFIX: Final = "pk:"
_MAPPING_FIELD: Final = "custompass_status_mapping"

Row = dict[str, Any]


def key_of(name: str) -> int | None:
    """The primary key that *name* may be; None when it is none.

    >>> key_of("5"), key_of("pk:5"), key_of("task_5"), key_of("9" * 20)
    (5, 5, None, None)
    """
    bare = name.strip().removeprefix(_PK_PREFIX)
    if not (bare.isascii() and bare.isdecimal() and len(bare) <= _LONGEST_KEY):
        return None
    return pk if (pk := int(bare)) <= _LARGEST_PK else None


class Seen(NamedTuple):
    """One task as the database has it."""

    task: Task
    is_active: bool
    row: Row
    """Columns of ``inspect.sql``; the JSON columns hold secrets and stay in here."""
    note: Row | None
    """Columns of ``note.sql``."""


class Inspector:
    """One gateway database of *profile*, for a person. Raises as ``Database.fetch`` does."""

    def __init__(self, database: Database, statements: Statements, profile: str) -> None:
        self._database = database
        self._sql = statements
        self._profile = profile

    # -- tasks -------------------------------------------------------------------------------------------------------

    async def find(self, name: str) -> list[Row]:
        """The tasks that *name* may mean, newest first, with the columns of ``find.sql``.

        *name* is a task id (in profile ``main`` also upstream's own, while the task is open) or a primary key;
        ``pk:5`` is the key 5 and nothing else.
        """
        text = name.strip()
        task_id = None if text.startswith(_PK_PREFIX) or "\0" in text else text
        return await self._rows("find", key_of(name), task_id)

    async def see(self, pk: int) -> Seen | None:
        """The task with this key, in whatever state; None when there is none of ours."""
        rows = await self._rows("inspect", pk)
        if not rows:
            return None
        row = rows[0]
        notes = await self._rows("note", pk, row["task_id"])
        note = notes[0] if notes else None
        remembered = Note(note["sightings"], note["sighted_s"]) if note else NOTHING
        return Seen(read_task(self._profile, row["channel_id"], row, remembered), row["is_active"], row, note)

    async def ledger(self, pk: int) -> Row | None:
        """The ledger row of a task, with the columns of ``ledger_row.sql``."""
        rows = await self._rows("ledger_row", pk)
        return rows[0] if rows else None

    async def held(self, channel_id: int | None, limit: int) -> list[Row]:
        """Open tasks in quarantine, with the columns of ``held.sql``, those first that wait longest."""
        return await self._rows("held", channel_id, limit)

    async def open_tasks(self, channel_id: int | None, limit: int) -> list[Row]:
        """Tasks that are not settled yet, with the columns of ``open_tasks.sql``."""
        return await self._rows("open_tasks", channel_id, limit)

    # -- by hand -----------------------------------------------------------------------------------------------------

    async def requeue(self, pks: Sequence[int], who: str) -> set[int]:
        """Take tasks out of quarantine, recorded in the same transaction; returns those that were in it."""
        return {row["task_pk"] for row in await self._rows("requeue", sorted(pks), who)}

    async def held_by_ledger(self, after_pk: int, limit: int) -> list[int]:
        """Pks in quarantine whose key the ledger has for another task, the next *limit* after *after_pk*."""
        return [row["task_pk"] for row in await self._rows("held_by_ledger", after_pk, limit)]

    async def record(self, who: str, action: str, pk: int | None, detail: str) -> None:
        """Note that *who* does *action*, for whoever asks later."""
        await self._rows("operator_act", who, action, pk, detail)

    async def actions(self, pk: int) -> list[Row]:
        """What people did to a task, with the columns of ``operator_actions.sql``."""
        return await self._rows("operator_actions", pk)

    # -- the whole ---------------------------------------------------------------------------------------------------

    async def held_reasons(self) -> list[Row]:
        """What the quarantine holds, with the columns of ``held_reasons.sql``."""
        return await self._rows("held_reasons")

    async def settled_today(self) -> list[Row]:
        """What was settled since midnight, with the columns of ``settled_today.sql``."""
        return await self._rows("settled_today")

    async def refund_room(self, channel_id: int, limit: int) -> Row:
        """How far the refunds of a channel have used up *limit*, with the columns of ``refund_room.sql``."""
        (row,) = await self._rows("refund_room", channel_id, limit)
        return row

    async def unknown_inbox(self) -> list[Row]:
        """Status words that no list knew, with the columns of ``unknown_inbox.sql``."""
        return await self._rows("unknown_inbox")

    async def channels(
        self, ids: Sequence[int], base_words: StatusWords, header_key: str
    ) -> tuple[dict[int, Channel], dict[int, str | None]]:
        """The channels that exist, read and checked, and the status mapping that each has, as JSON text."""
        rows = await self._database.fetch(self._sql.channels, sorted(set(ids)), timeout_s=_TIMEOUT_S)
        found = [ChannelRow(*row) for row in rows]
        return (
            {row.id: read_channel(row, base_words, header_key) for row in found},
            {row.id: _mapping_of(row) for row in found},
        )

    async def _rows(self, statement: str, *args: object) -> list[Row]:
        return [dict(row) for row in await self._database.fetch(self._sql[statement], *args, timeout_s=_TIMEOUT_S)]


def _mapping_of(row: ChannelRow) -> str | None:
    """The channel's own status mapping, from where it has most weight."""
    if row.mapping and row.mapping.strip():
        return row.mapping
    for text in (row.setting, row.settings):
        try:
            fields = json.loads(text or "{}")
        except (ValueError, RecursionError):
            continue
        value = fields.get(_MAPPING_FIELD) if isinstance(fields, Mapping) else None
        if value:
            return value if isinstance(value, str) else json.dumps(value)
    return None
