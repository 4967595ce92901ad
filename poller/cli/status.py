"""``poller status``: the fleet at one glance, readable at three in the morning: first what is wrong, then the rest."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from poller.cli.attention import attention
from poller.cli.desk import Desk, desk, look_for_room, unaskable
from poller.cli.reading import read_settings
from poller.cli.sheet import Sheet, ago, json_of, show, stamp
from poller.core import suggest
from poller.errors import Unavailable

if TYPE_CHECKING:
    from poller.settings import Settings

_WORDS_SHOWN = 50


@click.command(short_help="Lanes, backlog, settlements, quarantine, unknown words.")
@click.option("--url", help="Ask the side port of this replica instead of the database.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def status(url: str | None, as_json: bool) -> None:
    """What the fleet does now, from the database; with --url what one replica says of itself."""
    import anyio

    if url is None:
        settings = read_settings().settings
        told = anyio.run(functools.partial(_from_database, settings))
    else:
        settings = read_settings(needs_database=False).settings
        told = _from_replica(url)
    told["attention"] = attention(told, settings.poll_interval_s)
    if as_json:
        click.echo(json_of(told))
    else:
        show(*sheets(told))


def _from_replica(url: str) -> dict[str, Any]:
    from poller.cli.side_port import fetch_json

    found = fetch_json(url, "/status")
    lanes = found.get("fleet")
    if not isinstance(lanes, list):
        raise Unavailable("status: that answer is not the status of a poller")
    return {"replica": found.get("replica"), "checks": found.get("checks", {}), "lanes": lanes}


async def _from_database(settings: Settings) -> dict[str, Any]:
    from poller.postgres.leases import Leases
    from poller.postgres.watchman import Watchman

    async with desk(settings, "status") as at:
        leases = Leases(at.database, at.statements, "command-line", settings.lease_ttl_s)
        watchman = Watchman(at.database, at.statements)
        queue, (unassigned, _) = await watchman.queue(), await watchman.unassigned()
        words, mapped, lines = await unknown_words(at)
        lanes, busy = await leases.lanes_overview(), await watchman.channels_with_work()
        for lane in lanes:
            # The row says what the last renewal of a replica found, and there may have been none since.
            lane["has_work"] = lane["channel_id"] in busy
            await look_for_room(at, lane)
        return {
            "now_s": await watchman.db_now(),
            "profile": at.profile.name,
            "has_index": at.profile.has_index,
            "replicas": await leases.replicas_overview(),
            "queue": {
                "submitted": queue.submitted,
                "processing": queue.processing,
                "oldest_unasked_s": queue.oldest_unasked_s,
            },
            "without_channel": unassigned,
            "unaskable": [
                {"channel_id": each, "why": why} for each, why in (await unaskable(at, busy)).items() if each
            ],
            "lanes": lanes,
            "settled_today": await at.inspector.settled_today(),
            "quarantine": await at.inspector.held_reasons(),
            "unknown_words": words,
            "words_mapped_since": mapped,
            "suggestions": lines,
        }


async def unknown_words(at: Desk) -> tuple[list[dict[str, Any]], int, list[str]]:
    """Words that no list knows yet, how many of the inbox are mapped by now, and lines that would map the rest."""
    inbox = await at.inspector.unknown_inbox()
    settings = at.settings
    ids = [row["channel_id"] for row in inbox]
    channels, mappings = await at.inspector.channels(ids, settings.status_words, settings.header_key)
    still, unknown = [], defaultdict(list)
    for row in inbox:
        channel = channels.get(row["channel_id"])
        words = channel.words if channel else settings.status_words
        if row["word"] not in words.success | words.failed | words.processing:
            still.append({**row, "looks_like": suggest.guess(row["word"])})
            unknown[row["channel_id"]].append(row["word"])
    return still, len(inbox) - len(still), suggest.lines(unknown, settings.status_words, mappings)


def sheets(told: Mapping[str, Any]) -> list[Sheet | str]:
    """*told* as what is printed."""
    parts: list[Sheet | str] = [_headline(told)]
    parts.append(Sheet("needs attention", ("",), [(line,) for line in told["attention"]], "nothing"))
    if "queue" in told:
        queue = told["queue"]
        waited = ago(queue["oldest_unasked_s"])
        active = queue["submitted"] + queue["processing"]
        parts.append(f"open tasks: {active} (submitted {queue['submitted']}, processing {queue['processing']})")
        parts.append(f"longest time that one was not asked about: {waited}")
    is_readable = told.get("checks", {}).get("database", "ok") == "ok"
    parts.append(_lanes(told["lanes"], "none" if is_readable else "not known while the database does not answer"))
    if "settled_today" in told:
        columns = ("outcome", "rule", "tasks>", "refunded>", "charged>")
        rows = [tuple(row[name.removesuffix(">")] for name in columns) for row in told["settled_today"]]
        parts.append(Sheet("settled today", columns, rows, "nothing"))
    if told.get("quarantine"):
        rows = [
            (row["channel_id"], row["reason"], row["tasks"], row["reserved"], ago(row["oldest_s"]))
            for row in told["quarantine"]
        ]
        parts.append(Sheet("quarantine", ("channel>", "reason", "tasks>", "reserved>", "oldest>"), rows))
    parts += _unknown(told)
    if "replicas" in told:
        rows = [
            (
                each["id"],
                each["version"],
                "live" if each["is_live"] else "gone",
                each["lanes"],
                stamp(each["started_at_s"]),
            )
            for each in told["replicas"]
        ]
        parts.append(Sheet("replicas", ("name", "version", "state", "lanes>", "started"), rows))
    return parts


def _headline(told: Mapping[str, Any]) -> str:
    if "profile" not in told:
        return f"replica {told['replica']}"
    live = sum(each["is_live"] for each in told["replicas"])
    return f"{stamp(told['now_s'])}  profile {told['profile']}, {live} {'replica' if live == 1 else 'replicas'} live"


def _lanes(lanes: Sequence[Mapping[str, Any]], empty: str) -> Sheet:
    columns = ("channel>", "state", "breaker", "limit>", "last pass>", "asked>", "failed>", "settled>", "holder")
    rows = []
    for lane in lanes:
        counts = lane["pass_counts"]
        last = "never" if lane["unasked_s"] is None else ago(lane["unasked_s"])
        figures = [counts.get(name, 0) for name in ("asked", "failed_requests", "settled")]
        holder = lane["holder"] if lane["is_held"] else "-"
        rows.append(
            (lane["channel_id"], _state(lane), lane["breaker"], lane["concurrency"] or "-", last, *figures, holder)
        )
    return Sheet("lanes", columns, rows, empty)


def _state(lane: Mapping[str, Any]) -> str:
    if lane["is_paused"]:
        return "paused"
    if not lane["has_work"]:
        return "idle"
    if not lane["is_held"]:
        return "not held"
    return "waiting" if lane["breaker"] == "open" else "polling"


def _unknown(told: Mapping[str, Any]) -> list[Sheet | str]:
    words = told.get("unknown_words")
    if not words:
        return []
    rows = [
        (
            row["channel_id"],
            row["word"],
            row["seen_count"],
            ago(told["now_s"] - row["last_seen_at_s"]),
            row["example_task"],
            row["looks_like"],
        )
        for row in words[:_WORDS_SHOWN]
    ]
    columns = ("channel>", "word", "seen>", "last>", "example", "looks like")
    parts: list[Sheet | str] = [Sheet("status words in no list", columns, rows)]
    if len(words) > _WORDS_SHOWN:
        parts.append(f"and {len(words) - _WORDS_SHOWN} more: poller status --json")
    if told["suggestions"]:
        parts.append("to map them (ask the upstream what each means: success and failed words settle tasks):")
        parts += [f"  {line}" for line in told["suggestions"]]
    return parts
