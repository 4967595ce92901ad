"""``poller tasks``: what waits for a person, and what a person may do about it."""

from __future__ import annotations

import functools
import os
from typing import Any

import click

from poller.cli.desk import NotFound, Refused, called, desk, named, single, unaskable, who
from poller.cli.numbers import Whole
from poller.cli.reading import read_settings
from poller.cli.reasons import meaning
from poller.cli.sheet import Sheet, ago, is_time, json_of, show
from poller.core.model import Outcome, Settled, Settlement, Verdict
from poller.errors import PollerError

_LARGEST = 2**63 - 1
_WHY_NOT = {
    Verdict.ALREADY: "it is settled already; nothing moved",
    Verdict.REOPENED: "it was settled already and had been opened again: closed once more, nothing moved",
    Verdict.FINAL: "somebody else finished it meanwhile; nothing moved",
    Verdict.MOVED: "its user, channel or id changed meanwhile; nothing moved, look again",
    Verdict.GONE: "its row is gone; nothing moved",
    Verdict.LOCKED: "the database kept it locked; nothing moved, try again",
    Verdict.QUARANTINED: "it cannot be settled as the data stand; nothing moved",
}


@click.group(short_help="List open and held tasks; requeue or settle one by hand.")
def tasks() -> None:
    """Tasks that wait for a person. ID is a task id, or a primary key; pk:5 is the key 5 and nothing else."""


@tasks.command(name="list", short_help="Open tasks, or those in quarantine.")
@click.option("--quarantined", is_flag=True, help="Only those in quarantine, longest wait first.")
@click.option("--channel", type=Whole(0, 2**63 - 1), help="Only those of this channel.")
@click.option("--limit", type=Whole(1, 100_000), default=200, show_default=True, help="At most so many.")
@click.option("--json", "as_json", is_flag=True, help="A JSON list instead of a table.")
def list_(quarantined: bool, channel: int | None, limit: int, as_json: bool) -> None:
    """Tasks that are not settled; with --quarantined those that nobody asks about until somebody looked at them."""
    import anyio

    rows = anyio.run(functools.partial(_listed, quarantined, channel, limit + 1))
    is_cut, rows = len(rows) > limit, rows[:limit]
    if as_json:
        click.echo(json_of(rows))
        return
    title = "tasks in quarantine" if quarantined else "open tasks"
    columns = ("pk>", "task", "channel>", "user>", "model", "reserved>", "age>", "held>", "why")
    show(Sheet(title, columns, _cells(rows)), *_meanings(rows))
    if is_cut:
        click.echo(f"there are more than these {limit}; --limit shows more", err=True)


def _cells(rows: list[dict[str, Any]]) -> list[tuple[object, ...]]:
    return [
        (
            row["pk"],
            row["task_id"] or "-",
            row["channel_id"],
            row["user_id"],
            row["action"],
            row["reserved"],
            ago(row["now_s"] - row["submitted_s"]) if is_time(row["submitted_s"]) else "-",
            ago(row["now_s"] - row["quarantined_at_s"]) if row["quarantined_at_s"] else "-",
            _why(row),
        )
        for row in rows
    ]


def _why(row: dict[str, Any]) -> str:
    if not row["reason"]:
        return row["unaskable"] and f"nobody can be asked: channel {row['channel_id']}: {row['unaskable']}"
    return f"{row['reason']}: {row['detail']}" if row["detail"] else row["reason"]


def _meanings(rows: list[dict[str, Any]]) -> list[str]:
    """What the reasons in these rows mean and what mends them, each once."""
    return [meaning(reason) for reason in sorted({row["reason"] for row in rows if row["reason"]})]


async def _listed(is_quarantined: bool, channel_id: int | None, limit: int) -> list[dict[str, Any]]:
    async with desk(read_settings().settings, "tasks") as at:
        read = at.inspector.held if is_quarantined else at.inspector.open_tasks
        rows = await read(channel_id, limit)
        silent = await unaskable(at, [row["channel_id"] for row in rows])
        return [row | {"unaskable": silent.get(row["channel_id"], "")} for row in rows]


@tasks.command(short_help="Take tasks out of quarantine and ask about them again.")
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option(
    "--set-ledger-aside", "is_aside", is_flag=True, help="First set aside the ledger row of another, former task."
)
@click.option("--all", "is_all", is_flag=True, help="With --set-ledger-aside: all that are held because of such a row.")
@click.option("--yes", "is_sure", is_flag=True, help="With --set-ledger-aside: do not ask.")
def requeue(ids: tuple[str, ...], is_aside: bool, is_all: bool, is_sure: bool) -> int:
    """Take tasks out of quarantine: the next pass asks about them again.

    What was counted about them (not_found in a row) starts anew. A task past its deadline is judged by the next answer
    at once. Exits with 1 when one of them was not in quarantine.

    --set-ledger-aside is for tasks whose key the ledger has for a former task (ledger_of_another_task), after tasks was
    truncated or restored: that row is kept under a key of its own, on record. Never the row of the task itself. As the
    owner of schema poller. Exits with 1 when a task stays as it was.
    """
    if not is_aside and (is_all or is_sure):
        raise click.UsageError("--all and --yes go with --set-ledger-aside")
    if ids and is_all:
        raise click.UsageError("say the IDs or --all, not both")
    if not ids and not is_all:
        raise click.UsageError("say the IDs, or --all" if is_aside else "say the IDs")
    import anyio

    if is_aside:
        from poller.cli import aside

        return anyio.run(functools.partial(aside.set_aside, None if is_all else ids, is_sure))
    return anyio.run(functools.partial(_requeue, ids))


async def _requeue(ids: tuple[str, ...]) -> int:
    async with desk(read_settings().settings, "tasks") as at:
        pks, is_all = await named(at.inspector, ids)
        freed = await at.inspector.requeue(list(pks), who())
        for pk, name in pks.items():
            if pk in freed:
                click.echo(f"requeued: {called(name, pk)}; asked about again with the next pass of its lane")
            else:
                is_all = False
                click.echo(f"{called(name, pk)}: not in quarantine", err=True)
    return os.EX_OK if is_all else 1


@tasks.command(short_help="Settle an open task by hand, once, through the ledger.")
@click.argument("name", metavar="ID")
@click.option("--refund", is_flag=True, help="It failed: give everything back.")
@click.option("--charge", type=Whole(0, _LARGEST), help="It succeeded: keep this much quota of what was reserved.")
@click.option("--as-reserved", is_flag=True, help="It succeeded: keep what was reserved.")
@click.option("--reason", required=True, help="Why, for the records; a refunded task shows it to its owner.")
def resolve(name: str, refund: bool, charge: int | None, as_reserved: bool, reason: str) -> int:
    """Settle one open task by hand: status, money, log row and ledger row in one transaction, like every settlement.

    Exits with 0 when this call settled it, 75 when it was locked, else with 1.
    """
    from poller.core.evidence import clean_text

    if refund + as_reserved + (charge is not None) != 1:
        raise click.UsageError("say one of --refund, --charge N, --as-reserved")
    why = clean_text(reason, 500)
    if not why:
        raise click.UsageError("--reason: say why; somebody will ask")
    import anyio

    wanted = None if as_reserved else (0 if refund else charge)
    outcome = Outcome.FAILURE if refund else Outcome.SUCCESS
    settled = anyio.run(functools.partial(_resolve, name, outcome, wanted, why))
    if settled.verdict is Verdict.SETTLED:
        kept = f"reserved={settled.reserved} charged={settled.charged} refunded={settled.refunded}"
        click.echo(f"settled: {called(name, settled.task.pk)} as {settled.outcome.value}, {kept}")
        return os.EX_OK
    said = _WHY_NOT[settled.verdict] + (f": {meaning(settled.reason)}" if settled.reason else "")
    click.echo(f"{called(name, settled.task.pk)}: {said}", err=True)
    return os.EX_TEMPFAIL if settled.verdict is Verdict.LOCKED else 1


async def _resolve(name: str, outcome: Outcome, charged: int | None, why: str) -> Settled:
    from poller import wiring
    from poller.core.ratios import is_plausible

    settings = read_settings().settings
    async with desk(settings, "tasks") as at:
        seen = await at.inspector.see(await single(at.inspector, name))
        if seen is None:
            raise NotFound(f"task {name}: not found")
        pk, person = seen.task.pk, who()
        if not seen.is_active:
            raise NotFound(f"{called(name, pk)}: it is final already ({seen.task.state.value}); nothing moved")
        if charged is not None and not is_plausible(charged, seen.task.reserved):
            why = f"no gateway charges {charged} where {seen.task.reserved} was reserved"
            raise Refused(f"{called(name, pk)}: {why}; nothing moved")
        amount = "as reserved" if charged is None else str(charged)
        # Before and after: should this command die in between, it shows what was under way.
        await at.inspector.record(person, "resolve", pk, f"as {outcome.value}, charge {amount}: {why}")
        store = wiring.make_store(settings, at.database, at.statements, at.profile, f"operator-{person}")
        settlement = Settlement(
            seen.task,
            outcome,
            charged,
            rule="operator",
            price_source="operator",
            fail_reason=why if outcome is Outcome.FAILURE else "",
            evidence=f"by hand, {person}: {why}",
        )
        try:
            (settled,) = await store.settle([settlement])
        except PollerError as failure:
            await at.inspector.record(person, "resolve_failed", pk, str(failure)[:500])
            raise
        told = f"{settled.verdict.value} reserved={settled.reserved} charged={settled.charged} {settled.reason}"
        await at.inspector.record(person, "resolved", pk, told.strip())
        if settled.verdict is Verdict.QUARANTINED and not (seen.note and seen.note["quarantined_at_s"]):
            # What a person tried in vain takes no task from polling.
            await at.inspector.requeue([pk], person)
        return settled
