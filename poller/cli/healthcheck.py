"""``poller healthcheck``: a probe for images without curl."""

from __future__ import annotations

import click

from poller.cli.reading import read_settings
from poller.errors import Unavailable


@click.command(short_help="Probe a replica, for images without curl.")
@click.argument("probe", type=click.Choice(["live", "ready"]), default="live")
@click.option("--url", help="Side port of a replica; else the one that the settings name on this machine.")
def healthcheck(probe: str, url: str | None) -> int:
    """Exit with 0 when the replica on this machine is live (or ready), else with 1."""
    from poller.cli.side_port import local_url, request

    target = url or local_url(read_settings(needs_database=False).settings)
    try:
        reply = request("GET", target, f"/{probe}z")
    except Unavailable as away:
        click.echo(str(away), err=True)
        return 1
    click.echo(reply.said, err=reply.status != 200)
    return 0 if reply.status == 200 else 1
