"""``poller task ID``: one task explained, from its row to the next ask."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import click

from poller.cli.desk import Desk, NotFound, desk, look_for_room, refunds_waiting, resuming, single
from poller.cli.reading import read_settings
from poller.cli.reasons import meaning
from poller.cli.sheet import Sheet, ago, facts, is_time, json_of, show, stamp
from poller.core.channels import client_header
from poller.core.evidence import clean_text
from poller.errors import AskFailed

if TYPE_CHECKING:
    from poller.core.model import Channel, Task
    from poller.postgres.inspect import Seen

_DATA_SHOWN = 1000


@click.command(short_help="One task explained.")
@click.argument("name", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def task(name: str, as_json: bool) -> None:
    """Explain one task: its row, its lane, where it is asked about, what was seen last, what decided, what comes next.

    ID is a task id, or a primary key; pk:5 is the key 5 and nothing else. Exits with 1 when there is none.
    """
    import anyio

    told = anyio.run(functools.partial(_explain, name))
    if as_json:
        click.echo(json_of(told))
        return
    parts: list[Sheet | str] = []
    for title, lines in told.items():
        if isinstance(lines, dict):
            parts += [f"{title}:", *(f"  {line}" for line in facts(lines)), ""]
        elif isinstance(lines, list) and lines:
            rows = [(stamp(each["at_s"]), each["who"], each["action"], each["detail"]) for each in lines]
            parts.append(Sheet("done by hand", ("when", "who", "what", "detail"), rows))
        elif isinstance(lines, str):
            parts += [f"{title}: {lines}", ""]
    while parts and parts[-1] == "":
        parts.pop()
    show(*parts)


async def _explain(name: str) -> dict[str, Any]:
    from poller.postgres.inspect import key_of

    async with desk(read_settings().settings, "task") as at:
        try:
            seen = await at.inspector.see(await single(at.inspector, name))
        except NotFound:
            # A gateway may have deleted the row; what we settled stays in the ledger.
            pk = key_of(name)
            ledger = await at.inspector.ledger(pk) if pk is not None else None
            if ledger is None:
                raise
            return {"row": f"the gateway has no task with key {pk} any more", "settlement": _settlement(ledger)}
        if seen is None:
            raise NotFound(f"task {name}: not found")
        return await _told(at, seen)


async def _told(at: Desk, seen: Seen) -> dict[str, Any]:
    from poller.postgres.leases import Leases

    settings, task = at.settings, seen.task
    leases = Leases(at.database, at.statements, "command-line", settings.lease_ttl_s)
    lanes = {lane["channel_id"]: lane for lane in await leases.lanes_overview()}
    channels, _ = await at.inspector.channels([task.channel_id], settings.status_words, settings.header_key)
    lane, channel = lanes.get(task.channel_id), channels.get(task.channel_id)
    entry = await at.inspector.ledger(task.pk)
    ledger = entry if entry and (entry["task_id"], entry["user_id"]) == (task.task_id, task.user_id) else None
    waiting = ""
    if lane and seen.is_active:
        await look_for_room(at, lane)
        waiting = refunds_waiting(lane)
    return {
        "row": _row(seen, settings.task_max_lifetime_s),
        "lane": _lane(lane),
        "asking": _asking(task, channel),
        "evidence": _evidence(seen, ledger),
        "decision": _decision(seen, ledger),
        "settlement": _settlement(ledger) if ledger else _unsettled(entry),
        **({"refunds of its channel": f"{waiting}; its own waits too, if it failed"} if waiting else {}),
        "next ask": _next_ask(seen, lane, channel, settings.poll_interval_s),
        "done by hand": await at.inspector.actions(task.pk),
    }


def _row(seen: Seen, lifetime_s: float) -> dict[str, object]:
    task, row = seen.task, seen.row
    age_s = row["now_s"] - task.submitted_s
    left_s = lifetime_s - age_s
    deadline = f"in {ago(left_s)}" if left_s >= 0 else f"{ago(-left_s)} ago"
    return {
        "pk": task.pk,
        "task_id": task.task_id,
        "upstream_id": task.upstream_id or "none can be read: nobody can be asked about it",
        "user": task.user_id,
        "channel": task.channel_id,
        "model": task.model,
        "state": task.state.value,
        "progress": task.progress,
        "reserved" if seen.is_active else "quota": task.reserved,
        "used_quota": row["used"],
        "submitted": _submitted(task.submitted_s, age_s),
        "deadline": deadline if seen.is_active and is_time(task.submitted_s) else None,
        "updated": stamp(row["updated_s"]),
        "fail_reason": clean_text(row["fail_reason"], 2048),
    }


def _submitted(epoch_s: float, age_s: float) -> str:
    if epoch_s <= 0:
        return "unknown"
    return f"{stamp(epoch_s)} ({ago(age_s)} ago)" if is_time(epoch_s) else f"{epoch_s:.0f}: no time in seconds"


def _lane(lane: dict[str, Any] | None) -> dict[str, object] | str:
    if lane is None:
        return "none yet: no replica has met this channel"
    return {
        "holder": lane["holder"] if lane["is_held"] else "nobody",
        "paused": (lane["pause_reason"] or "yes") if lane["is_paused"] else None,
        "breaker": lane["breaker"],
        "last pass": f"{ago(lane['unasked_s'])} ago" if lane["unasked_s"] is not None else "never",
    }


def _asking(task: Task, channel: Channel | None) -> dict[str, object] | str:
    from poller.upstream.wire import ask_url

    if not task.channel_id:
        return "nobody: it names no channel; set tasks.channel_id, or settle it by hand: poller tasks resolve"
    if channel is None:
        return f"nobody: channel {task.channel_id} has no row"
    try:
        url = ask_url(channel.base_url, task.model) if channel.base_url else "none"
    except AskFailed as failed:
        url = f"none: {failed.detail}"
    key = "its own" if task.key else f"the channel's ({len(channel.keys)} usable)"
    header = client_header(task.token_header, channel.token_header) if task.client_token else None
    return {"url": url, "key": key, "client token": header and f"in {header}", "findings": "; ".join(channel.findings)}


def _evidence(seen: Seen, ledger: dict[str, Any] | None) -> dict[str, object] | str:
    note = seen.note or {}
    found = {
        "when settled": ledger["evidence"] if ledger else None,
        "in quarantine": note.get("detail"),
        "not_found": f"{note['sightings']} in a row" if note.get("sightings") else None,
        "last payload": clean_text(seen.row["data"], _DATA_SHOWN),
    }
    kept: dict[str, object] = {name: value for name, value in found.items() if value}
    return kept or "none kept: only what changes a task, holds or settles it is written down"


def _decision(seen: Seen, ledger: dict[str, Any] | None) -> str:
    if ledger:
        return meaning(ledger["rule"])
    if not seen.is_active:
        return "none of ours: somebody else finished it"
    if seen.note and seen.note["quarantined_at_s"]:
        return f"held for a person: {meaning(seen.note['reason'])}"
    return "none yet: no answer was final"


def _settlement(ledger: dict[str, Any]) -> dict[str, object]:
    return {
        "settled": stamp(ledger["settled_at_s"]),
        "outcome": ledger["outcome"],
        "reserved": ledger["reserved"],
        "charged": ledger["charged"],
        "refunded": ledger["refunded"],
        "purse": ledger["purse"],
        "token": ledger["token_id"],
        "subscription": ledger["subscription_id"],
        "price": ledger["price_source"],
        "tokens": f"{ledger['prompt_tokens']}+{ledger['completion_tokens']}",
        "fail_reason": ledger["fail_reason"],
        "by": ledger["replica"],
    }


def _unsettled(other: dict[str, Any] | None) -> str:
    said = "none: no money has moved"
    if other is None:
        return said
    whose = f"task {other['task_id'] or '-'} of user {other['user_id']}, settled {stamp(other['settled_at_s'])}"
    return f"{said}; the ledger has its key for {whose}"


def _next_ask(seen: Seen, lane: dict[str, Any] | None, channel: Channel | None, interval_s: float) -> str:
    name = seen.task.task_id or f"pk:{seen.task.pk}"
    if not seen.is_active:
        return "never: it is final"
    if seen.note and seen.note["quarantined_at_s"]:
        if seen.note["reason"] == "ledger_of_another_task":
            return f"not before 'poller tasks requeue {name} --set-ledger-aside', or --all instead of its id"
        return f"not before 'poller tasks requeue {name}'; or settle it with 'poller tasks resolve {name}'"
    if lane is not None and lane["is_paused"]:
        return f"not while its lane is paused ({lane['pause_reason']}): {resuming(lane)}"
    if channel is None or not channel.askable or not seen.task.upstream_id:
        return "not while nobody can be asked: see 'asking'"
    if lane is None or not lane["is_held"]:
        return "when a replica takes its lane"
    if lane["breaker"] == "open":
        return f"with the probe of its breaker, in {ago((lane['breaker_until_s'] or 0.0) - lane['now_s'])}"
    if lane["unasked_s"] is None:
        return "with the first pass of its lane"
    return f"in about {ago(interval_s - lane['unasked_s'])}, with the next pass of its lane"
