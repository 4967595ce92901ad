"""``poller check``: the effective configuration, redacted, each value with its origin."""

from __future__ import annotations

import json
import os

import click


@click.command(short_help="The effective settings, each with its origin.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def check(as_json: bool) -> int:
    """Read and validate the configuration and print it. Exits with 78 and all faults when there is one."""
    from poller import settings

    found = settings.examine(settings.environment())
    faults = found.faults + found.unknown
    if as_json:
        listed = [
            {"name": value.name, "value": None if value.shown == "-" else value.shown, "origin": value.origin}
            for value in found.values
        ]
        told = {"settings": listed, "faults": faults, "warnings": found.warnings, "notes": found.notes}
        click.echo(json.dumps(told, indent=2, ensure_ascii=False))
        return os.EX_CONFIG if faults else os.EX_OK
    names = max(len(value.name) for value in found.values)
    width = min(60, max(len(value.shown) for value in found.values))
    for value in found.values:
        click.echo(f"{value.name:<{names}}  {value.shown:<{width}}  {value.origin}")
    for kind, lines in (("note", found.notes), ("warning", found.warnings), ("fault", faults)):
        for line in lines:
            click.echo(f"{kind}: {line}", err=True)
    if faults:
        return os.EX_CONFIG
    click.echo("ok: the configuration is valid", err=True)
    return os.EX_OK
