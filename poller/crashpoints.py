"""Named places between one effect and the next, where a test may end the process or cut a connection.

In production nobody watches, and a place costs one look-up. Labels are written out where they are reached, so that the
fault suite lists them from the source and fails on one that it does not cover.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping

CRASH_AT = "CUSTOM_PASS_CRASH_AT"
"""``label:n`` in the environment: SIGKILL at the n-th time that the label is reached. For tests of this daemon."""

_watcher: Callable[[str], None] | None = None


def reach(label: str) -> None:
    """Tell whoever watches that *label* was reached; ordinarily nobody does."""
    if _watcher is not None:
        _watcher(label)


def watch(watcher: Callable[[str], None] | None) -> None:
    """Call *watcher* at every label from now on, in the task that reaches it; None ends that."""
    global _watcher
    _watcher = watcher


def arm(environ: Mapping[str, str]) -> str:
    """Watch for what ``CUSTOM_PASS_CRASH_AT`` names; returns it, empty when unset. Raises ValueError on a bad count."""
    wanted = environ.get(CRASH_AT, "")
    if wanted:
        label, _, count = wanted.partition(":")
        left = int(count or "1")

        def end(reached: str) -> None:
            nonlocal left
            left -= reached == label
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        watch(end)
    return wanted
