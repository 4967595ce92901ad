"""``poller reconcile``: money that is not where it should be, and what is certainly owed given back."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from poller.cli.desk import Desk, desk, who
from poller.cli.reading import read_settings
from poller.cli.sheet import Sheet, show
from poller.core.model import Verdict
from poller.core.reconcile import UNTOLD, Class, Finding

if TYPE_CHECKING:
    from poller.postgres.reconcile import Page, Reconciler, Span

_DIFFERENCES = 2
_SHOWN = 20
"""Findings of a class that the text names; JSON has them all."""
_LAST_DELIVERY_S = 10.0
_PLAIN_NUMBER = re.compile(r"\d+(\.\d+)?")
_MENDED = (Verdict.SETTLED, Verdict.ALREADY)
_MEANINGS = {
    Class.OWED: "finished and never refunded; --apply gives it back",
    Class.AMBIGUOUS: "finished, perhaps refunded: for a person",
    Class.OPEN_AGAIN: "settled, and open again: a running daemon puts it back",
    Class.OTHER_TASK: "settled, and the row is another task's now",
    Class.OTHER_OUTCOME: "settled one way, final in the other",
    Class.OTHER_AMOUNT: "settled, and the task says other amounts",
    Class.NO_LOG: "settled, and its log row is missing",
}


def _since(_context: click.Context, _parameter: click.Parameter, given: str | None) -> float:
    """Epoch seconds: a date or time (UTC unless it says otherwise), or how long ago."""
    from poller.settings_values import duration_s

    if given is None:
        return 0.0
    try:
        if _PLAIN_NUMBER.fullmatch(given):
            raise ValueError
        return max(0.0, time.time() - duration_s(given))
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(given)
        return max(0.0, (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        raise click.BadParameter("expected a date such as 2026-01-31, a time, or how long ago, such as 30d") from None


@click.command(short_help="Find money that is not where it should be; --apply gives back what is owed.")
@click.option(
    "--since", "since_s", callback=_since, help="Only tasks submitted since: 2026-01-31, or 30d for days ago."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object with every finding.")
@click.option("--apply", "is_applied", is_flag=True, help="Give back what is certainly owed, through the ledger, once.")
@click.option("--yes", "is_sure", is_flag=True, help="No refund is missing in the logs, whatever time they cover.")
def reconcile(since_s: float, as_json: bool, is_applied: bool, is_sure: bool) -> int:
    """Look for finished tasks that are owed money, and for settlements that tables or logs contradict.

    Nothing is written without --apply, and nothing that is not certain is paid with it. Exit 0: clean; 2: differences.
    """
    import anyio

    report = _Report(as_json)
    with report:
        anyio.run(functools.partial(_reconcile, report, since_s, is_applied, is_sure))
    return _DIFFERENCES if report.is_dirty else 0


class _Report(contextlib.AbstractContextManager["_Report"]):
    """Says what is found as it is found, and sums it up at the end: constant memory, whatever is wrong."""

    def __init__(self, as_json: bool) -> None:
        self.facts: dict[str, Any] = {}
        self.notes: list[str] = []
        self._as_json = as_json
        self._counts: Counter[Class] = Counter()
        self._quota: Counter[Class] = Counter()
        self._repaired_count = self._repaired_quota = 0
        self._unrepaired: Counter[str] = Counter()
        self._left = self._untold = 0

    @property
    def is_dirty(self) -> bool:
        """Whether a difference is left."""
        return bool(self._left)

    def __enter__(self) -> _Report:
        return self

    def __exit__(self, kind: object, *_rest: object) -> None:
        if kind is None:
            self._end()

    def tell(self, finding: Finding, verdict: Verdict | None = None) -> None:
        """One difference, and what came of its repair where one was tried."""
        is_first = not self._counts
        self._counts[finding.kind] += 1
        self._quota[finding.kind] += finding.quota
        if verdict in _MENDED:
            if verdict is Verdict.SETTLED:
                self._repaired_count += 1
                self._repaired_quota += finding.quota
        else:
            self._left += 1
            self._untold += finding.detail in UNTOLD
            if verdict is not None:
                self._unrepaired[verdict.value] += 1
        if self._as_json:
            facts = {
                "class": finding.kind.value,
                "task_pk": finding.pk,
                "task_id": finding.task_id,
                "user_id": finding.user_id,
                "channel_id": finding.channel_id,
                "quota": finding.quota,
                "detail": finding.detail,
            }
            facts |= {} if verdict is None else {"repair": verdict.value}
            click.echo(f"{'{' if is_first else ','}{_FINDINGS if is_first else ''}\n  {_json(facts)}", nl=False)
        elif self._counts[finding.kind] <= _SHOWN:
            did = (
                "" if verdict is None else " given back" if verdict in _MENDED else f" not given back: {verdict.value}"
            )
            click.echo(
                f"{finding.kind.value}: pk={finding.pk} task_id={finding.task_id or '-'} user={finding.user_id}"
                f" channel={finding.channel_id} quota={finding.quota}{f' ({finding.detail})' if finding.detail else ''}"
                f"{did}"
            )

    def _end(self) -> None:
        if self._untold:
            self.notes.append(f"{self._untold} tasks may be owed, but no log row can tell; --yes takes them for owed")
        classes = {
            kind.value: {"count": self._counts[kind], "quota": self._quota[kind]}
            for kind in Class
            if self._counts[kind]
        }
        repaired = {"count": self._repaired_count, "quota": self._repaired_quota}
        if self._as_json:
            tail = self.facts | {"classes": classes, "repaired": repaired, "not_repaired": dict(self._unrepaired)}
            tail |= {"notes": self.notes, "is_clean": not self.is_dirty}
            head = "\n]," if self._counts else f"{{{_FINDINGS}],"
            click.echo(head + _json(tail)[1:])
            return
        rows = [(kind.value, self._counts[kind], self._quota[kind], _MEANINGS[kind]) for kind in Class]
        shown = [row for row in rows if row[1]]
        looked = (
            f"profile {self.facts['profile']}: looked at {self.facts['settlements']} settlements, and at"
            f" {self.facts['candidates']} finished tasks without one"
        )
        show(Sheet("differences", ("class", "count>", "quota>", "meaning"), shown), looked)
        if self._repaired_count:
            click.echo(f"given back: {self._repaired_quota} quota for {self._repaired_count} tasks")
        for verdict, count in sorted(self._unrepaired.items()):
            click.echo(f"not given back: {count} tasks ({verdict})")
        for note in self.notes:
            click.echo(f"note: {note}", err=True)


_FINDINGS = '"findings":['


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


async def _reconcile(report: _Report, since_s: float, is_applied: bool, is_sure: bool) -> None:
    from poller import wiring
    from poller.postgres.logs_elsewhere import LogDatabase
    from poller.postgres.reconcile import Reconciler

    settings = read_settings().settings
    async with contextlib.AsyncExitStack() as stack:
        at = await stack.enter_async_context(desk(settings, "reconcile"))
        logs = None
        if settings.logs_elsewhere:
            logs = LogDatabase(functools.partial(wiring.open_log_pool, settings))
            stack.push_async_callback(logs.close)
        reconciler = Reconciler(
            at.database,
            at.statements,
            replica_id=f"reconcile-{who()}",
            logs_of=None if logs is None else logs.get,
            moves_caches=settings.redis_conn_string is not None,
            lowers_channels=settings.fork_lower_channel_used_quota,
        )
        span = await reconciler.span(since_s)
        report.facts |= {"profile": at.profile.name, "since_s": since_s}
        report.facts |= {"candidates": span.candidates, "settlements": span.settlements}
        with _progress(span) as advance:
            owed = reconciler.owed(since_s, span, is_sure=is_sure)
            await _look(report, owed, advance, reconciler if is_applied else None)
            await _look(report, reconciler.ledger(since_s, span), advance, None)
        if is_applied:
            await _deliver(at, report)


async def _look(
    report: _Report, pages: AsyncIterator[Page], advance: Callable[[int], None], repairer: Reconciler | None
) -> None:
    async with contextlib.aclosing(pages) as opened:  # type: ignore[type-var]
        async for page in opened:
            fates = {} if repairer is None else {each.task.pk: each for each in await repairer.repair(page.findings)}
            for finding in page.findings:
                fate = fates.get(finding.pk)
                report.tell(finding, None if fate is None else fate.verdict)
            advance(page.looked)


async def _deliver(at: Desk, report: _Report) -> None:
    """Hand over what the repairs left in the outbox; a running daemon does it too."""
    from poller import wiring

    quiet = _Quiet()
    async with wiring.open_deliveries(at.settings, at.database, at.statements, quiet) as deliveries:
        await deliveries.drain(_LAST_DELIVERY_S)
    if quiet.failed:
        report.notes.append("some log rows or cached balances wait in the outbox: a running daemon delivers them")


class _Quiet:
    """A recorder that remembers only that something failed."""

    failed = False

    def outbox(self, depth: int, oldest_s: float) -> None:
        """Nobody reads gauges here."""

    def delivered(self, kind: str, count: int) -> None:
        """Nothing to say."""

    def delivery_failed(self, kind: str, reason: str, count: int = 1) -> None:
        """Remember it."""
        self.failed = True


@contextlib.contextmanager
def _progress(span: Span) -> Iterator[Callable[[int], None]]:
    """A bar on stderr while the block runs; nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("looking"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        line = bar.add_task("", total=span.candidates + span.settlements)
        yield lambda count: bar.advance(line, count)
