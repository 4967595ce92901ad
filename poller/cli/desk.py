"""What the commands of a person work with: the database, opened and checked, and who that person is."""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from poller.cli.reading import PATIENCE_S, opened
from poller.cli.sheet import stamp
from poller.errors import Stop
from poller.ops.log_lines import escaped

if TYPE_CHECKING:
    from poller.postgres.inspect import Inspector
    from poller.postgres.pool import Database
    from poller.postgres.profile import Profile
    from poller.postgres.statements import Statements
    from poller.settings import Settings

ALL_LANES = "all lanes"
"""The reason that ``lanes.sql`` gives for a lane that is paused with all the others, and not by itself."""


class Desk(NamedTuple):
    """The gateway's database as a person meets it."""

    settings: Settings
    database: Database
    profile: Profile
    statements: Statements
    inspector: Inspector


class NotFound(Stop):
    """No task, or no single one, goes by that name."""

    exit_code = 1


class Refused(Stop):
    """What a person asked for is surely a slip."""

    exit_code = 1


@contextlib.asynccontextmanager
async def desk(settings: Settings, purpose: str, *, patience_s: float = PATIENCE_S) -> AsyncIterator[Desk]:
    """Open the database and see that its schema is ours. Raises Unavailable, Misconfigured, NotPermitted."""
    from poller.postgres import migrate, statements
    from poller.postgres.home import see_home
    from poller.postgres.inspect import Inspector
    from poller.postgres.profile import detect

    async with opened(settings, purpose, patience_s=patience_s) as database:
        found = await detect(database, settings.schema)
        await migrate.verify(database)
        await see_home(database)
        known = statements.load(found.name)
        yield Desk(settings, database, found, known, Inspector(database, known, found.name))


async def single(inspector: Inspector, name: str) -> int:
    """The primary key of the one task that *name* means. Raises NotFound, with the candidates where there are more."""
    if not name.strip():
        raise NotFound("an empty ID names no task")
    found = await inspector.find(name)
    if not found:
        raise NotFound(f"task {name}: not found")
    if len(found) > 1:
        lines = [candidate(row) for row in found]
        raise NotFound("\n".join([f"task {name}: more than one task goes by that name; use pk:KEY of one:", *lines]))
    return int(found[0]["pk"])


async def named(inspector: Inspector, names: Sequence[str]) -> tuple[dict[int, str], bool]:
    """The tasks that *names* mean, by pk, and whether those are all; of each other one a line is said."""
    pks, is_all = {}, True
    for name in names:
        try:
            pks[await single(inspector, name)] = name
        except NotFound as nothing:
            is_all = False
            click.echo(str(nothing), err=True)
    return pks, is_all


def called(name: str, pk: int) -> str:
    """A task as a person named it, with its key.

    >>> called("job-1", 11), called("pk:11", 11), called("11", 11)
    ('task job-1 (pk 11)', 'task pk:11', 'task pk:11')
    """
    return f"task pk:{pk}" if name in (str(pk), f"pk:{pk}") else f"task {name} (pk {pk})"


def candidate(row: dict[str, Any]) -> str:
    """One of several tasks that a name may mean, in a line."""
    named = f"pk:{row['pk']} task_id={row['task_id']} channel={row['channel_id']} user={row['user_id']}"
    return escaped(f"  {named} status={row['status'] or '-'} submitted={stamp(row['submitted_s'])}")


async def unaskable(at: Desk, channel_ids: Iterable[int]) -> dict[int, str]:
    """Of these channels, those that nobody can be asked about, and why; 0 is what a task has that names none."""
    ids = sorted(set(channel_ids))
    channels, _ = await at.inspector.channels(ids, at.settings.status_words, at.settings.header_key)
    found = {}
    for each in ids:
        if (channel := channels.get(each)) is None:
            found[each] = "it has no row" if each else "the task names none"
        elif not channel.askable:
            found[each] = "; ".join(channel.findings)
    return found


def who() -> str:
    """Who runs this command, and where, as the system knows it; the environment could say anything."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = f"uid {os.getuid()}"
    return f"{name}@{socket.gethostname()}"


def resuming(lane: Mapping[str, Any]) -> str:
    """The commands that end the pause of a lane: its own, that of all lanes, or both."""
    own = "" if lane["pause_reason"] == ALL_LANES else f"poller resume {lane['channel_id']}"
    return " and ".join(filter(None, (own, "poller resume" if not own or lane.get("is_all_paused") else "")))


def refunds_waiting(lane: Mapping[str, Any]) -> str:
    """How many refunds of a lane waited in its last pass, and why; empty when none did."""
    counts = lane["pass_counts"]
    if not (waiting := counts.get("refunds_held")):
        return ""
    said = f"{waiting} {'refund waits' if waiting == 1 else 'refunds wait'}, {counts['quota_held']} quota"
    return f"{said}: what upstream called failed reached CUSTOM_PASS_MAX_REFUND_PER_HOUR{lane.get('refund_room', '')}"


async def look_for_room(at: Desk, lane: dict[str, Any]) -> None:
    """Put into *lane* until when its refunds wait, where some do; the limit is that of this command's settings."""
    limit = at.settings.max_refund_per_hour
    if limit is None or not refunds_waiting(lane):
        return
    room = await at.inspector.refund_room(lane["channel_id"], limit)
    when = f"until {stamp(room['room_at_s'])}" if room["room_at_s"] else "until the next pass"
    lane["refund_room"] = f" ({room['refunded']} of {limit} within the hour), {when}"
