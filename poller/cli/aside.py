"""``poller tasks requeue --set-ledger-aside``: former settlements out of the way of tasks that have their keys now."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Sequence

import click

from poller.cli.desk import Desk, called, desk, named, who
from poller.cli.reading import read_settings
from poller.errors import NotPermitted

_AT_ONCE = 500
_OWNERS_WORK = "ledger rows are set aside by the owner of schema poller: run this with the SQL_DSN of that role"
_SAID = {
    "set_aside": "the former settlement is set aside; asked about with the next pass of its lane",
    "free": "no settlement of another task is in its way",
    "returned": "it was settled itself, before another task had its key; closed without money with the next pass",
    "own": "left as it is: the ledger row has its id, so it was settled already; nothing is set aside",
    "older": "left as it is: it is older than that settlement, which may be its own under another id",
    "undelivered": "left as it is: the log row of that settlement is still to be delivered; try again then",
    "gone": "left as it is: its row is gone",
}


async def set_aside(names: Sequence[str] | None, is_sure: bool) -> int:
    """Do it for the tasks called *names*, None: for all that are held because of such a row. Returns the exit code.

    Raises NotPermitted where the role may not.
    """
    from poller.postgres.faults import RightMissing
    from poller.postgres.ledger import Ledger

    async with desk(read_settings().settings, "tasks") as at:
        pks, is_all = ({}, True) if names is None else await named(at.inspector, names)
        count = len(pks) if names is not None else await _held(at)
        if names is None and not count:
            click.echo("nothing is held because of the settlement of another task")
        if not count:
            return os.EX_OK if is_all else 1
        if not is_sure:
            _ask(count)
        ledger, done, left = Ledger(at.database, at.statements), 0, 0
        async for page in _pages(at, None if names is None else list(pks)):
            try:
                found = await ledger.set_aside(page, who())
            except RightMissing as refused:
                raise NotPermitted(f"{_OWNERS_WORK} ({refused.detail})") from refused
            for each in found:
                is_done = each.verdict == "set_aside" or each.is_requeued
                done, left = done + is_done, left + (not is_done)
                if names is not None or not is_done:
                    said = _SAID[each.verdict]
                    click.echo(f"{called(pks.get(each.pk, str(each.pk)), each.pk)}: {said}", err=not is_done)
        click.echo(f"{done} requeued, {left} left as they were")
    return os.EX_OK if is_all and not left else 1


async def _held(at: Desk) -> int:
    reasons = await at.inspector.held_reasons()
    return sum(row["tasks"] for row in reasons if row["reason"] == "ledger_of_another_task")


def _ask(count: int) -> None:
    """Raises Abort, or UsageError where nobody can be asked."""
    if not sys.stdin.isatty():
        raise click.UsageError("--set-ledger-aside lets these tasks be paid: say --yes")
    tasks = "1 task" if count == 1 else f"{count} tasks"
    click.confirm(f"Set aside what the ledger holds of former tasks, so that {tasks} can be settled?", abort=True)


async def _pages(at: Desk, pks: list[int] | None) -> AsyncIterator[list[int]]:
    """The pks in hand, or those that are held now, so many at once that nobody waits long for their rows."""
    if pks is not None:
        for start in range(0, len(pks), _AT_ONCE):
            yield pks[start : start + _AT_ONCE]
        return
    after_pk = 0
    while page := await at.inspector.held_by_ledger(after_pk, _AT_ONCE):
        yield page
        after_pk = page[-1]
