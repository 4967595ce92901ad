"""``poller run``: the daemon, or one pass of it."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import signal

import click

from poller import __version__
from poller.cli.reading import read_settings, secrets_of


@click.command(short_help="The daemon, or one pass of it.")
@click.option("--once", "is_once", is_flag=True, help="One full pass over everything active, then exit.")
@click.option("--dry-run", "is_dry", is_flag=True, help="Ask, print what would be settled, write nothing.")
def run(is_once: bool, is_dry: bool) -> int:
    """The daemon. Waits for a database that is away; --once gives it 10 seconds, then exits with 69."""
    if not (is_once or is_dry):
        # Sent while it starts, each of them would end it: what it asks for happens at a start anyway.
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
    loaded = read_settings()

    import anyio

    from poller import crashpoints, daemon
    from poller.ops import log
    from poller.ops.metrics import Metrics
    from poller.ops.recorder import Recorder
    from poller.settings import environment

    settings = loaded.settings
    written = log.set_up(
        level=settings.log_level,
        form=settings.log_format,
        colours=not environment().get("NO_COLOR"),
        secrets=secrets_of(settings),
    )
    try:
        metrics = Metrics()
        metrics.describe(version=__version__, config_hash=_hash([(value.name, value.shown) for value in loaded.values]))
        metrics.log_lines_dropped.set_function(lambda: written.dropped_count)
        recorder = Recorder(metrics, written.logger)
        for line in loaded.warnings:
            recorder.event("warning", "setting_odd", detail=line)
        if armed := crashpoints.arm(environment()):
            recorder.event("warning", "crash_armed", at=armed)
        has_uvloop = importlib.util.find_spec("uvloop") is not None
        start = functools.partial(daemon.run, settings, recorder, is_once=is_once, is_dry=is_dry)
        return anyio.run(start, backend_options={"use_uvloop": has_uvloop})
    finally:
        written.close()


def _hash(values: object) -> str:
    """A name for this configuration, secrets left out: equal on replicas that are configured alike."""
    return hashlib.sha256(repr(values).encode()).hexdigest()[:12]
