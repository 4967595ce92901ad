"""So that nothing stays of a test run that was killed: no process that it started, and no folder for long."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

LEASH = ["setpriv", "--pdeathsig", "KILL"] if sys.platform == "linux" and shutil.which("setpriv") else []
"""Put before a command, it lets the kernel kill the process when the test run ends, however that does."""


def new_folder(kind: str) -> Path:
    """A temporary folder with a name short enough for a socket in it; those of killed runs are removed first."""
    parent, prefix = Path(tempfile.gettempdir()), f"poller-{kind}-"
    for left in parent.glob(f"{prefix}*-*"):
        owner = left.name.removeprefix(prefix).partition("-")[0]
        if sys.platform == "linux" and owner.isdecimal() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=parent))
