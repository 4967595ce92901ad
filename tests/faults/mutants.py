"""Whether the suite would notice: every seeded money bug must make one of its named tests fail.

    python -m tests.faults.mutants [--only TEXT] [--jobs N]

Each bug is patched into a copy of the daemon, and pytest runs beside that copy. Exit code 0: all caught; 1: a bug
survived, or a patch no longer applies, or a test fails without any bug.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import queue
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.faults.mutations import MUTATIONS
from tests.faults.mutations.mutation import Mutation

ROOT = Path(__file__).resolve().parent.parent.parent
LIMIT_S = 300
_FAILED = 1
_SLIP = re.compile(r"^E +(SyntaxError|NameError|UnboundLocalError|ImportError|AttributeError).*", re.MULTILINE)
"""What fails with these is a patch that makes no sense: nobody could have shipped it."""
_LEFT_OUT = shutil.ignore_patterns("__pycache__", ".*", "benchmarks")


class Fate(NamedTuple):
    """What became of one bug. *by* is the first test that failed, or what is wrong."""

    name: str
    verdict: str
    by: str
    seconds: float


class Workshop:
    """A copy of the daemon and its tests, in which one bug at a time is at home."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        shutil.copytree(ROOT / "poller", folder / "poller", ignore=_LEFT_OUT)
        shutil.copytree(ROOT / "tests", folder / "tests", ignore=_LEFT_OUT)
        for name in ("pyproject.toml", "README.md"):
            shutil.copy(ROOT / name, folder / name)

    def patched(self, mutation: Mutation) -> dict[Path, str]:
        """Put the bug in; what the files were before. Raises ValueError when a patch does not apply exactly once."""
        texts = mutation.applied(self.folder / "poller")
        before = {file: file.read_text() for file in texts}
        self.restore(texts)
        return before

    def restore(self, texts: dict[Path, str]) -> None:
        for file, text in texts.items():
            file.write_text(text)

    def run(self, *tests: str) -> tuple[int, str]:
        """Exit code and output of pytest on *tests*, ended at the first failure."""
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.folder),
            "PYTHONDONTWRITEBYTECODE": "1",
            "POLLER_MODEL_SHRINK": "0",
            "POLLER_MODEL_EXAMPLES": os.environ.get("POLLER_MODEL_EXAMPLES", "30"),
        }
        for test in tests:
            command = [
                sys.executable,
                "-m",
                "pytest",
                "-x",
                "-q",
                "-p",
                "no:cacheprovider",
                "-o",
                "addopts=",
                *shlex.split(test),
            ]
            try:
                done = subprocess.run(
                    command,
                    cwd=self.folder,
                    env=environment,
                    capture_output=True,
                    text=True,
                    timeout=LIMIT_S,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                return _FAILED, f"FAILED {test}: took longer than {LIMIT_S} s"
            if done.returncode:
                return done.returncode, done.stdout + done.stderr
        return 0, ""


def tried(workshop: Workshop, mutation: Mutation) -> Fate:
    """Put one bug in, run its tests, take it out."""
    began = time.monotonic()
    try:
        before = workshop.patched(mutation)
    except ValueError as wrong:
        return Fate(mutation.name, "NO PATCH", str(wrong), 0.0)
    try:
        code, said = workshop.run(*mutation.tests)
    finally:
        workshop.restore(before)
    took_s = time.monotonic() - began
    if code == _FAILED and (slip := _SLIP.search(said)):
        return Fate(mutation.name, "BROKEN", slip[0], took_s)
    if code == _FAILED:
        failing = re.search(r"FAILED (\S+)", said)
        return Fate(mutation.name, "caught", failing[1] if failing else "?", took_s)
    if code == 0:
        return Fate(mutation.name, "SURVIVED", ", ".join(mutation.tests), took_s)
    return Fate(mutation.name, "BROKEN", said.strip()[-400:], took_s)


def healthy(workshop: Workshop, mutations: Sequence[Mutation]) -> str:
    """Empty when all tests named by *mutations* pass without any bug, else what they say."""
    whole: set[str] = set()
    parts: dict[str, set[str]] = {}
    for test in {test for mutation in mutations for test in mutation.tests}:
        where, expression = (*shlex.split(test), "-k", "")[:3:2]
        if expression:
            parts.setdefault(where, set()).add(f"({expression})")
        else:
            whole.add(where)
    runs = [f"{where} -k {shlex.quote(' or '.join(sorted(some)))}" for where, some in sorted(parts.items())]
    code, said = workshop.run(*([" ".join(sorted(whole))] if whole else []), *runs)
    return said.strip()[-2000:] if code else ""


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.mutants", description=__doc__)
    parser.add_argument("--only", default="", help="those whose name holds this")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--trust", action="store_true", help="do not first run the tests without any bug")
    asked = parser.parse_args()
    chosen = [mutation for mutation in MUTATIONS if asked.only in mutation.name]
    with tempfile.TemporaryDirectory(prefix="poller-mutants-") as folder:
        workshops: queue.SimpleQueue[Workshop] = queue.SimpleQueue()
        for number in range(asked.jobs):
            workshops.put(Workshop(Path(folder) / str(number)))
        if not asked.trust:
            workshop = workshops.get()
            if trouble := healthy(workshop, chosen):
                print(f"the tests fail without any bug:\n{trouble}")
                return 1
            workshops.put(workshop)

        def work(mutation: Mutation) -> Fate:
            workshop = workshops.get()
            try:
                fate = tried(workshop, mutation)
            finally:
                workshops.put(workshop)
            print(f"{fate.verdict:<9} {fate.seconds:5.1f} s  {fate.name}\n{'':19}{fate.by}", flush=True)
            return fate

        with concurrent.futures.ThreadPoolExecutor(asked.jobs) as pool:
            fates = list(pool.map(work, chosen))
    caught = sum(fate.verdict == "caught" for fate in fates)
    print(f"{caught} of {len(fates)} caught")
    return 0 if fates and caught == len(fates) else 1


if __name__ == "__main__":
    sys.exit(main())
