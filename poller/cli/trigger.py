"""``poller trigger``: what SIGUSR1 does, through the side port of a replica."""

from __future__ import annotations

import click

from poller.cli.reading import read_settings
from poller.errors import Incomplete, NotPermitted, Unavailable


@click.command()
@click.option("--url", help="Side port of a replica; else the one that the settings name on this machine.")
def trigger(url: str | None) -> None:
    """Poll everything active now, on all replicas. Lifts no pause."""
    from poller.cli.side_port import local_url, request

    settings = read_settings(needs_database=False).settings
    token = settings.admin_token.reveal() if settings.admin_token else ""
    reply = request("POST", url or local_url(settings), "/trigger", token=token)
    if reply.status in (401, 403):
        raise NotPermitted(f"trigger: refused: {reply.said}")
    if reply.status == 503:
        raise Incomplete(f"trigger: not now: {reply.said}")
    if reply.status not in (200, 202):
        raise Unavailable(f"trigger: answered with status {reply.status}; is that the side port of a poller?")
    click.echo("triggered: all lanes are due now")
