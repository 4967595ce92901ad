"""A wall clock of a daemon's own, by libfaketime; its monotonic clock stays what it is."""

from __future__ import annotations

import re
import signal
from datetime import UTC, datetime
from pathlib import Path

import anyio

from tests.faults.abilities import FAKETIME
from tests.faults.nursery import Child

_TOLERANCE_S = 60.0
"""How far from its jump a clock may seem to be, for the time until a line is written and read."""
_DUMPED = re.compile(r"^(\S+) \[\w+\] custompass: state_dumped", re.MULTILINE)


class FakeClock:
    """Set by *file*, which stands for one or more daemons that were started with ``preload``."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._ahead_s = 0
        self.set(0)

    def preload(self) -> dict[str, str]:
        """What must be in the environment of a daemon that goes by this clock."""
        assert FAKETIME is not None, "abilities() says whether there is one"
        return {
            "LD_PRELOAD": FAKETIME,
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, ahead_s: int) -> None:
        """Let it jump: *ahead_s* seconds ahead of the true time."""
        self._ahead_s = ahead_s
        self._file.write_text(f"{ahead_s:+d}")

    async def is_shown_by(self, child: Child) -> bool:
        """Whether *child* writes a line now whose time is that of this clock; False when it has ended."""
        seen = len(_DUMPED.findall(child.said()))
        child.signal(signal.SIGUSR2)
        while child.code is None:
            dumped = _DUMPED.findall(child.said())[seen:]
            if dumped:
                ahead_s = (datetime.fromisoformat(dumped[0]) - datetime.now(UTC)).total_seconds()
                return abs(ahead_s - self._ahead_s) < _TOLERANCE_S
            await anyio.sleep(0.02)
        return False
