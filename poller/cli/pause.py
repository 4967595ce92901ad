"""``poller pause`` and ``poller resume``: fleet-wide, through the database."""

from __future__ import annotations

import functools

import click

from poller.cli.desk import who
from poller.cli.numbers import Whole
from poller.cli.reading import opened, read_settings
from poller.errors import NoSuchChannel

_channel = click.argument("channel", type=Whole(0, 2**63 - 1), metavar="[CHANNEL]", required=False)


@click.command(short_help="Stop asking one channel, or all.")
@_channel
def pause(channel: int | None) -> None:
    """Ask nothing new of CHANNEL, or of all channels, until 'poller resume'. What was asked is still settled."""
    _flag(channel, is_paused=True)


@click.command(short_help="Ask again.")
@_channel
@click.option(
    "--accept-lost-ledger", "accepts_loss", is_flag=True, help="Settle on, although poller.ledger has lost rows."
)
def resume(channel: int | None, accepts_loss: bool) -> None:
    """Ask CHANNEL again. Without CHANNEL, lift the pause of all; single channels keep theirs.

    With --accept-lost-ledger nothing else is done: of tasks whose settlement is gone from the ledger, those that a
    gateway opens again are then paid once more.
    """
    if accepts_loss:
        import anyio

        click.echo(anyio.run(_accept_loss))
    else:
        _flag(channel, is_paused=False)


def _flag(channel: int | None, *, is_paused: bool) -> None:
    import anyio

    anyio.run(functools.partial(_write, channel, is_paused=is_paused))
    subject = "all channels" if channel is None else f"channel {channel}"
    click.echo(f"{'paused' if is_paused else 'resumed'}: {subject}; replicas follow within a lease renewal")


async def _write(channel: int | None, *, is_paused: bool) -> None:
    from poller.postgres import migrate
    from poller.postgres.leases import Leases
    from poller.postgres.statements import load_own

    settings = read_settings().settings
    async with opened(settings, "pause") as database:
        await migrate.verify(database)
        # Only rows that concern everybody are written: no lease is taken under this name.
        leases = Leases(database, load_own(), "command-line", settings.lease_ttl_s)
        if channel is not None and not await leases.has_channel(channel):
            raise NoSuchChannel(channel)
        if is_paused:
            await leases.pause(channel, "operator")
        else:
            await leases.resume(channel)


async def _accept_loss() -> str:
    from poller.postgres import migrate
    from poller.postgres.ledger import Ledger
    from poller.postgres.statements import load_own

    async with opened(read_settings().settings, "resume") as database:
        await migrate.verify(database)
        was_lost = await Ledger(database, load_own()).accept_loss(who())
    return "accepted: tasks are settled again" if was_lost else "nothing to accept: the ledger holds what it held"
