"""``poller demo``: everything on this machine, nothing to set up."""

from __future__ import annotations

import click

from poller.cli.numbers import Whole


@click.command(short_help="All of it on this machine, nothing to set up.")
@click.option("--tasks", type=Whole(1, 1_000_000), default=2000, show_default=True, help="Tasks to seed.")
@click.option(
    "--profile",
    type=click.Choice(["documented", "fork", "main"]),
    default="main",
    show_default=True,
    help="Gateway variant to play.",
)
@click.option("--chaos", is_flag=True, help="Let the upstream misbehave.")
@click.option("--keep", is_flag=True, help="Keep the database afterwards.")
def demo(tasks: int, profile: str, chaos: bool, keep: bool) -> int:
    """A PostgreSQL, a simulated upstream, seeded users and tasks, and the real daemon; ends with the money check."""
    from poller.demo.run import main

    return main(tasks, profile, chaos, keep)
