"""A process that has read the daemon's code and forks a daemon whenever it is told: starting one takes milliseconds.

Run as ``python -m tests.faults.nursery`` it reads a JSON line for each daemon to start from standard input and writes a
line when one started and when one ended. Its children end with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import anyio

ROOT = Path(__file__).resolve().parent.parent.parent
LIMIT_S = 60.0
_SET_DEATH_SIGNAL = 1


class Child:
    """One daemon process. ``code`` is its exit code, negative for the signal that ended it, None while it lives."""

    def __init__(self, pid: int, log: Path) -> None:
        self.pid = pid
        self.log = log
        self.code: int | None = None
        self.is_over = asyncio.Event()

    def signal(self, number: int) -> bool:
        """Send a signal; False when it had ended before."""
        if self.code is not None:
            return False
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            # Over and reaped, and its exit code is still on the way to us.
            return False
        return True

    async def ended(self, limit_s: float = LIMIT_S) -> int:
        with anyio.fail_after(limit_s):
            await self.is_over.wait()
        assert self.code is not None
        return self.code

    async def says(self, text: str, limit_s: float = LIMIT_S) -> None:
        """Wait until *text* stands in the log, or the process is over."""
        with anyio.fail_after(limit_s):
            while text not in self.said() and self.code is None:
                await anyio.sleep(0.02)

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""


class Nursery:
    """The parent's side: the process lives from ``start`` to ``stop``, and serves one event loop at a time."""

    def __init__(self) -> None:
        self._children: dict[int, Child] = {}
        self._waiting: list[asyncio.Future[Child]] = []
        self._turn = asyncio.Lock()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.nursery"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )

    def stop(self) -> None:
        """End the process, and with it every daemon that still runs."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(LIMIT_S)

    @contextlib.asynccontextmanager
    async def attached(self) -> AsyncIterator[Nursery]:
        """Usable from this event loop within the block; daemons that still run at its end are killed."""
        assert self._process.stdout is not None
        reader = asyncio.StreamReader()
        pipe = os.fdopen(os.dup(self._process.stdout.fileno()), "rb", buffering=0)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        reading = asyncio.create_task(self._read(reader))
        try:
            yield self
        finally:
            for child in list(self._children.values()):
                child.signal(signal.SIGKILL)
                await child.ended()
            reading.cancel()
            transport.close()

    async def spawn(self, settings: Mapping[str, str], log: Path, *arguments: str, is_fresh: bool = False) -> Child:
        """A daemon with exactly these *settings*, writing to *log*; *is_fresh*: a new interpreter, for preloads."""
        assert self._process.stdin is not None
        order = {"settings": dict(settings), "log": str(log), "arguments": arguments or ("run",), "is_fresh": is_fresh}
        async with self._turn:
            told: asyncio.Future[Child] = asyncio.get_running_loop().create_future()
            self._waiting.append(told)
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            with anyio.fail_after(LIMIT_S):
                return await told

    async def _read(self, reader: asyncio.StreamReader) -> None:
        async for line in reader:
            told = json.loads(line)
            if "log" in told:
                child = self._children[told["pid"]] = Child(told["pid"], Path(told["log"]))
                waiting = self._waiting.pop(0)
                if waiting.done():
                    # Whoever asked for it was cancelled meanwhile.
                    child.signal(signal.SIGKILL)
                else:
                    waiting.set_result(child)
            else:
                child = self._children.pop(told["pid"])
                child.code = told["code"]
                child.is_over.set()


# -- the process itself ----------------------------------------------------------------------------------------------


def _grow(order: dict[str, object], environ: dict[str, str]) -> None:
    """In the child: become a daemon. Never returns."""
    code = os.EX_SOFTWARE
    try:
        ctypes.CDLL(None, use_errno=True).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        log = os.open(str(order["log"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        settings = order["settings"]
        assert isinstance(settings, dict)
        os.environ.clear()
        os.environ.update(environ | settings)
        if order["is_fresh"]:
            os.execve(sys.executable, [sys.executable, "-m", "poller", *order["arguments"]], dict(os.environ))  # type: ignore[misc]
        from poller.__main__ import execute

        code = execute(order["arguments"])  # type: ignore[arg-type]
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def main() -> None:
    """Read orders until standard input ends, then end all children."""
    import poller.cli.run
    import poller.daemon
    import poller.ops.metrics

    assert poller.cli.run
    environ = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "PYTHONPATH")}
    woken, wake = os.pipe2(os.O_NONBLOCK)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    alive: set[int] = set()
    pending = b""
    while True:
        ready, _, _ = select.select([0, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _reap(alive)
        if 0 in ready:
            data = os.read(0, 65536)
            if not data:
                break
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                order = json.loads(line)
                pid = os.fork()
                if pid == 0:
                    _grow(order, environ)
                alive.add(pid)
                _tell(pid=pid, log=order["log"])
    for pid in alive:
        os.kill(pid, signal.SIGKILL)


def _reap(alive: set[int]) -> None:
    while alive:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        alive.discard(pid)
        _tell(pid=pid, code=os.waitstatus_to_exitcode(status))


def _tell(**fact: object) -> None:
    os.write(1, json.dumps(fact).encode() + b"\n")


if __name__ == "__main__":
    main()
