"""``poller check``: the effective configuration, redacted, each value with its origin."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

import click

from poller.cli.sheet import json_of
from poller.errors import OtherGateway, PollerError

if TYPE_CHECKING:
    from poller.settings import Settings

_PATIENCE_S = 3.0


@click.command(short_help="The effective settings, each with its origin.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def check(as_json: bool) -> int:
    """Read and validate the configuration and print it. Exits with 78 and all faults when there is one.

    Where the database answers within 3 seconds, it also suggests lines for status words that no list knows, and
    says when schema poller belongs to another gateway there.
    """
    from poller import settings

    found = settings.examine(settings.environment())
    faults = found.faults + found.unknown
    suggestions, others = ([], []) if faults else _suggestions(found.settings)
    faults += others
    if as_json:
        listed = [
            {"name": value.name, "value": None if value.shown == "-" else value.shown, "origin": value.origin}
            for value in found.values
        ]
        told = {"settings": listed, "faults": faults, "warnings": found.warnings, "notes": found.notes}
        told["suggestions"] = suggestions
        click.echo(json_of(told))
        return os.EX_CONFIG if faults else os.EX_OK
    names = max(len(value.name) for value in found.values)
    width = min(60, max(len(value.shown) for value in found.values))
    for value in found.values:
        click.echo(f"{value.name:<{names}}  {value.shown:<{width}}  {value.origin}")
    told_of = (("note", found.notes), ("warning", found.warnings), ("fault", faults), ("suggestion", suggestions))
    for kind, lines in told_of:
        for line in lines:
            click.echo(f"{kind}: {line}", err=True)
    if faults:
        return os.EX_CONFIG
    click.echo("ok: the configuration is valid", err=True)
    return os.EX_OK


def _suggestions(settings: Settings) -> tuple[list[str], list[str]]:
    """Lines for status words that stand in no list, and the fault of a search_path that leads to another gateway.

    Neither without the database, which is not what is checked.
    """
    import anyio

    try:
        return anyio.run(functools.partial(_from_database, settings)), []
    except OtherGateway as wrong:
        return [], list(wrong.faults)
    except PollerError:
        return [], []


async def _from_database(settings: Settings) -> list[str]:
    import anyio

    from poller.cli.desk import desk
    from poller.cli.status import unknown_words

    with anyio.move_on_after(_PATIENCE_S):
        async with desk(settings, "check", patience_s=0.0) as at:
            return (await unknown_words(at))[2]
    return []
