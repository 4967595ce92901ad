"""``poller simulate``: the upstream simulator alone, for trying things."""

from __future__ import annotations

import functools
import signal
from typing import TYPE_CHECKING

import click

from poller.cli.numbers import Decimal, Whole
from poller.errors import Unavailable

if TYPE_CHECKING:
    from poller.demo.simulator import Simulator


@click.command(short_help="The upstream simulator alone.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=Whole(0, 65535), default=8900, show_default=True, help="0 takes any free port.")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives every task the same fate.")
@click.option("--speed", type=Decimal(0.01, 1000), default=1.0, show_default=True, help="How fast tasks live.")
@click.option("--chaos", is_flag=True, help="Misbehave: errors, silence, garbage, contradictions.")
def simulate(host: str, port: int, seed: int, speed: float, chaos: bool) -> None:
    """A simulated upstream until Ctrl-C. Any key is welcome; any path before the model is a channel."""
    import anyio

    from poller.demo.simulator import Simulator

    simulator = Simulator(seed=seed, is_chaotic=chaos, speed=speed)
    anyio.run(functools.partial(_serve, simulator, host, port))


async def _serve(simulator: Simulator, host: str, port: int) -> None:
    import anyio

    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with anyio.create_task_group() as group:
            try:
                url = await group.start(simulator.run, host, port)
            except OSError as error:
                # Python's own text repeats the address after the system's.
                what = (error.strerror or str(error)).partition(" (while attempting")[0]
                raise Unavailable(f"simulate: cannot listen on {host} port {port} ({what})") from error
            click.echo(f"{url}  a simulated upstream; Ctrl-C ends it")
            click.echo("submit:  curl -X POST URL/m/submit".replace("URL", url))
            click.echo(f'ask:     curl -d \'{{"task_ids": ["ID"]}}\' {url}/m/task/list-by-condition')
            async for _ in signals:
                group.cancel_scope.cancel()
                break
    click.echo(f"answered {simulator.requests} requests")
