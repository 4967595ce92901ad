"""What the demo shows: a live table on a terminal, plain lines otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from poller.demo.world import Finding, Progress

_LINE_EVERY_S = 2.0


class View:
    """Shows progress for the length of a ``with`` block, then the report."""

    def __init__(self, console: Console, profile: str) -> None:
        self._console = console
        self._profile = profile
        self._live = Live(console=console, refresh_per_second=8) if console.is_terminal else None
        self._said_s = -_LINE_EVERY_S

    def __enter__(self) -> View:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def show(self, progress: Progress, *, elapsed_s: float, daemons: int, kills: int) -> None:
        """The present state; plain lines come every other second, and at the end."""
        if self._live:
            self._live.update(self._table(progress, elapsed_s, daemons, kills))
        elif elapsed_s - self._said_s >= _LINE_EVERY_S or progress.settled >= progress.tasks:
            self._said_s = elapsed_s
            killed = f" kills={kills}" if kills else ""
            self._console.print(
                f"{elapsed_s:5.1f}s settled {progress.settled} of {progress.tasks}"
                f" refunded={progress.refunded} charged={progress.charged} daemons={daemons}{killed}"
            )

    def report(self, findings: Sequence[Finding]) -> None:
        """The money check, a line each, and what it comes to."""
        table = Table(title="money check", title_justify="left", box=None, pad_edge=False, show_header=False)
        for finding in findings:
            mark = Text("ok", "green") if finding.is_ok else Text("WRONG", "bold red")
            table.add_row(mark, finding.name, Text(finding.detail, "dim"))
        self._console.print(table)
        if all(finding.is_ok for finding in findings):
            self._console.print(Text("every quota is where it should be", "bold green"))
        else:
            self._console.print(Text("the money check failed", "bold red"))

    def _table(self, progress: Progress, elapsed_s: float, daemons: int, kills: int) -> Group:
        lanes = Table(box=None, pad_edge=False, header_style="dim")
        for name in ("channel", "open", "settled", ""):
            lanes.add_column(name, justify="left" if name in ("channel", "") else "right")
        for channel_id, (open_, settled) in progress.by_channel.items():
            lanes.add_row(str(channel_id), str(open_), str(settled), ProgressBar(open_ + settled, settled, width=30))
        replicas = f"{daemons} daemons" if daemons > 1 else "1 daemon"
        killed = f", {kills} killed with -9" if kills else ""
        head = f"poller demo · profile {self._profile} · {replicas}{killed} · {elapsed_s:.0f} s"
        money = f"refunded {progress.refunded:,} · charged {progress.charged:,}"
        foot = f"settled {progress.settled} of {progress.tasks} · {money}"
        return Group(Text(head, "bold"), lanes, Text(foot))
