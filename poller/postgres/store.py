"""Tasks, channels and prices as the gateway's database has them, and the notes we keep about tasks.

Reading a page writes nothing and joins nothing of ours. Money moves in ``settle`` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final

import anyio

from poller.core.channels import ChannelRow, read_channel
from poller.core.evidence import clean_text, storable_json
from poller.core.model import Advance, Channel, Settled, Settlement, StatusWords, Task
from poller.core.passes import Page
from poller.core.pricing import PriceBook, PriceRow
from poller.postgres.database import Database
from poller.postgres.faults import Fault, StatementFailed
from poller.postgres.profile import Profile
from poller.postgres.rows import NOTHING, Note, read_task
from poller.postgres.settle import Settler, retry_delay_s
from poller.postgres.statements import Statement, Statements

_PAGE_S: Final = 30.0
"""Reading a page without the index walks all finished rows: slow, but not wrong."""
_HEAVY_AT_ONCE: Final = 8
_NOTES_AT_ONCE: Final = 1000
_GROUPS_KEPT: Final = 100_000
_WORD_LENGTH: Final = 64
_DETAIL_LENGTH: Final = 2048
_TRIES: Final = 3


class Store:
    """One gateway database, read and written under the rules of *profile*.

    *cache_s*: how old a channel, the prices and a user's group may be (0: always read). *replica_id* goes into the
    ledger. *logs_elsewhere*: log rows go to the outbox, because ``logs`` is in another database; *moves_caches*: so do
    the changes of balances that the gateway's Redis must learn of. *has_notes*: schema ``poller`` is there; without it
    only reading works.
    """

    def __init__(
        self,
        database: Database,
        statements: Statements,
        profile: Profile,
        *,
        base_words: StatusWords,
        header_key: str,
        cache_s: float,
        replica_id: str,
        lower_channel_used_quota: bool = False,
        logs_elsewhere: bool = False,
        moves_caches: bool = False,
        has_notes: bool = True,
        delay_s: Callable[[int], float] = retry_delay_s,
    ) -> None:
        self._database = database
        self._statements = statements
        self._profile = profile
        self._base_words = base_words
        self._header_key = header_key
        self._cache_s = cache_s
        self._has_notes = has_notes
        self._delay_s = delay_s
        self._settler = Settler(
            database,
            statements,
            replica_id=replica_id,
            lowers_channels=lower_channel_used_quota,
            logs_elsewhere=logs_elsewhere,
            moves_caches=moves_caches,
            quarantine=self.quarantine,
            delay_s=delay_s,
        )
        self._channels: dict[int, tuple[float, Channel]] = {}
        self._groups: dict[int, tuple[float, str]] = {}
        self._prices: tuple[float, PriceBook] | None = None

    # -- reading -----------------------------------------------------------------------------------------------------

    async def page(self, channel_id: int, after_pk: int, limit: int) -> Page:
        """Active tasks of a channel after *after_pk*, at most *limit*, without those in quarantine.

        Raises DatabaseAway, as everything here.
        """
        rows = await self._database.fetch(self._statements.page, channel_id, after_pk, limit, timeout_s=_PAGE_S)
        now_s: float = rows[0]["now_s"]
        if rows[0]["pk"] is None:
            return Page([], now_s, after_pk, is_last=True)
        last_pk: int = rows[-1]["pk"]
        # By pk alone: a task that was moved to another channel keeps its note.
        span = (after_pk, last_pk, channel_id)
        watched = await self._database.fetch(self._statements.watched, *span) if self._has_notes else []
        notes = {note["task_pk"]: Note(*(note[name] for name in Note._fields)) for note in watched}
        tasks = []
        heavy = []
        for row in rows:
            note = notes.get(row["pk"], NOTHING) if notes else NOTHING
            if note.task_id not in (None, row["task_id"]):
                # Of a former task, whose key this one has now.
                note = NOTHING
            if note.is_quarantined:
                continue
            if row["is_heavy"]:
                heavy.append((row, note))
            else:
                tasks.append(read_task(self._profile.name, channel_id, row, note))
        if heavy:
            tasks += await self._heavy(channel_id, heavy)
            tasks.sort(key=attrgetter("pk"))
        return Page(tasks, now_s, last_pk, is_last=len(rows) < limit)

    async def last_pk(self, channel_id: int) -> int:
        """The last pk among a channel's active tasks now; 0 when there is none."""
        rows = await self._database.fetch(self._statements.last, channel_id, timeout_s=_PAGE_S)
        return rows[0]["pk"] or 0

    async def _heavy(self, channel_id: int, found: Sequence[tuple[Any, Note]]) -> list[Task]:
        """The tasks of rows whose JSON the page left out, a few at a time: a saved request may be megabytes long."""
        tasks = []
        for start in range(0, len(found), _HEAVY_AT_ONCE):
            some = found[start : start + _HEAVY_AT_ONCE]
            rows = await self._database.fetch(self._statements.heavy, [row["pk"] for row, _ in some])
            texts = {row["pk"]: (row["properties"], row["private_data"]) for row in rows}
            tasks += [
                read_task(self._profile.name, channel_id, row, note, texts[row["pk"]])
                for row, note in some
                if row["pk"] in texts
            ]
        return tasks

    async def channel(self, channel_id: int) -> Channel | None:
        """The channel, read and checked; None when it has no row. One that is not cached is looked up at once."""
        cached = self._channels.get(channel_id)
        if cached and anyio.current_time() < cached[0]:
            return cached[1]
        rows = await self._database.fetch(self._statements.channels, [channel_id])
        if not rows:
            self._channels.pop(channel_id, None)
            return None
        channel = read_channel(ChannelRow(*rows[0]), self._base_words, self._header_key)
        self._channels[channel_id] = (anyio.current_time() + self._cache_s, channel)
        return channel

    async def prices(self) -> PriceBook:
        """Live prices, at most ``cache_s`` old."""
        if self._prices and anyio.current_time() < self._prices[0]:
            return self._prices[1]
        rows = await self._database.fetch(self._statements.prices)
        book = PriceBook.read(self._profile.name, [PriceRow(*row) for row in rows])
        self._prices = (anyio.current_time() + self._cache_s, book)
        return book

    async def user_groups(self, ids: Sequence[int]) -> dict[int, str]:
        """Billing group by user id, each at most ``cache_s`` old; a user without a row is missing."""
        now_s = anyio.current_time()
        found = {user: kept[1] for user in ids if (kept := self._groups.get(user)) and now_s < kept[0]}
        if wanted := sorted(set(ids) - found.keys()):
            rows = await self._database.fetch(self._statements.user_groups, wanted)
            if len(self._groups) + len(rows) > _GROUPS_KEPT:
                self._groups.clear()
            for row in rows:
                found[row["user_id"]] = row["user_group"]
                self._groups[row["user_id"]] = (now_s + self._cache_s, row["user_group"])
        return found

    # -- money -------------------------------------------------------------------------------------------------------

    async def refunded_within_hour(self, channel_id: int) -> int:
        """Quota that went back for failed tasks of a channel within the last hour, by hand excepted."""
        if not self._has_notes:
            return 0
        ((refunded,),) = await self._database.fetch(self._statements.refunded, channel_id)
        return int(refunded)

    async def settle(self, settlements: Sequence[Settlement]) -> list[Settled]:
        """Final statuses and the money they free, once: see ``settle.Settler.settle``."""
        return await self._settler.settle(settlements)

    # -- statuses that move no money ---------------------------------------------------------------------------------

    async def advance(self, changes: Sequence[tuple[Task, Advance]]) -> int:
        """Write later open states and new progress; returns how many rows really changed.

        A status never goes back, a final row is never touched, a locked one is left for the next pass. Data that the
        database refuses is left out; a change that it refuses as a whole is dropped, alone.
        """
        rows = sorted(
            (task.pk, task.task_id, change.state.value, change.progress, storable_json(change.payload))
            for task, change in {change[0].pk: change for change in changes}.values()
        )
        return await self._advance(rows) if rows else 0

    async def _advance(self, rows: Sequence[tuple[int, str, str, str, str | None]]) -> int:
        try:
            columns = [list(column) for column in zip(*rows, strict=True)]
            return len(await self._write(self._statements.advance, *columns))
        except StatementFailed as failure:
            if failure.fault not in (Fault.POISON, Fault.BUG):
                raise
        if len(rows) > 1:
            middle = len(rows) // 2
            return await self._advance(rows[:middle]) + await self._advance(rows[middle:])
        pk, task_id, state, progress, data = rows[0]
        return 0 if data is None else await self._advance([(pk, task_id, state, progress, None)])

    # -- notes -------------------------------------------------------------------------------------------------------

    async def remember(self, channel_id: int, sightings: Sequence[tuple[Task, int]]) -> None:
        """Keep how often in a row ``not_found`` was said of each task, dated now; 0 deletes the note."""
        await self._note(self._statements.remember, channel_id, sightings)

    async def remember_keys(self, channel_id: int, digests: Sequence[tuple[Task, str]]) -> None:
        """Keep the digest of the key, of a channel with several, that answered for each task."""
        await self._note(self._statements.remember_keys, channel_id, digests)

    async def _note(self, statement: Statement, channel_id: int, notes: Sequence[tuple[Task, object]]) -> None:
        by_pk = {task.pk: (task.task_id, value) for task, value in notes}
        if pks := sorted(by_pk):
            ids, values = zip(*(by_pk[pk] for pk in pks), strict=True)
            await self._write(statement, channel_id, pks, list(ids), list(values))

    async def tidy_notes(self, after_pk: int) -> int:
        """Delete notes behind *after_pk* whose task is not open any more, as far as one short look reaches.

        Returns where the next look starts; 0 when there is nothing behind.
        """
        (row,) = await self._database.fetch(self._statements.tidy_notes, after_pk, _NOTES_AT_ONCE)
        return row["last_pk"] or 0

    async def quarantine(self, entries: Sequence[tuple[Task, str, str]]) -> int:
        """Leave tasks, each with its reason and a line of detail, to a person; returns how many were not there yet.

        A task that is settled meanwhile is not taken in.
        """
        rows = sorted(
            (task.pk, task.task_id, task.channel_id, reason, clean_text(detail, _DETAIL_LENGTH))
            for task, reason, detail in {entry[0].pk: entry for entry in entries}.values()
        )
        if not rows:
            return 0
        columns = [list(column) for column in zip(*rows, strict=True)]
        return len(await self._write(self._statements.quarantine, *columns))

    async def unknown_words(self, channel_id: int, words: Mapping[str, tuple[int, str]]) -> None:
        """Count status words that no list knows: by word, how often it was said and an id that it was said of."""
        counts: dict[str, tuple[int, str]] = {}
        for word, (count, example) in words.items():
            name = clean_text(word, _WORD_LENGTH)
            counts[name] = (counts.get(name, (0, ""))[0] + count, clean_text(example, _DETAIL_LENGTH))
        if counts:
            names = sorted(counts)
            await self._write(
                self._statements.unknown_words,
                channel_id,
                names,
                [counts[name][0] for name in names],
                [counts[name][1] for name in names],
            )

    async def _write(self, statement: Statement, *args: object) -> list[Any]:
        """Run a statement that is harmless to repeat; deadlocks and lock time-outs get two more tries."""
        tries = 1
        while True:
            try:
                return await self._database.fetch(statement, *args)
            except StatementFailed as failure:
                if failure.fault not in (Fault.RETRY_TX, Fault.LOCKED) or tries >= _TRIES:
                    raise
            await anyio.sleep(self._delay_s(tries))
            tries += 1
