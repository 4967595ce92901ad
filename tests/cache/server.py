"""A real Redis server for tests, ended with the test, also when that is killed."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.leftovers import LEASH, new_folder
from tests.ports import free_port

BINARY = shutil.which("redis-server") or ""


def needed() -> None:
    """Skip the test, saying why, where there is no Redis."""
    if not BINARY:
        pytest.skip("no redis-server on this machine: apt-get install redis-server")


class RedisServer:
    """Listens on a loopback port and on a socket; loses its data when it is stopped, as a cache may.

    One that *keeps* writes down each change before it answers, and has all of them again when it is started again.
    """

    def __init__(self, *, keeps: bool = False) -> None:
        self._keeps = keeps
        self._folder = new_folder("redis")
        self.socket = self._folder / "redis.sock"
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = {
            "bind": "127.0.0.1",
            "port": self.port,
            "unixsocket": self.socket,
            "save": "",
            "appendonly": "yes" if self._keeps else "no",
            # Without fsync a kill still loses nothing: the kernel lives on.
            "appendfsync": "no",
            "auto-aof-rewrite-percentage": 0,
            "dir": self._folder,
            "logfile": self._folder / "log",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        self._process = subprocess.Popen([*LEASH, BINARY, *arguments])
        until = time.monotonic() + 20
        while self.cli("PING") != "PONG":
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < until, "Redis does not answer"
            time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def signal(self, number: int) -> None:
        """Send the server a signal, such as SIGSTOP."""
        assert self._process is not None
        self._process.send_signal(number)

    def written(self) -> list[list[str]]:
        """Every change that was made to the data of a server that keeps it, as the command that makes it."""
        return [command.split("\n") for path in sorted(self._folder.rglob("*.aof")) for command in _commands(path)]

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def cli(self, *command: str) -> str:
        """One command, spoken without any client library; the reply's first line, or the value. Empty when away."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 10) as link:
                stream = link.makefile("rwb")
                stream.write(b"*%d\r\n" % len(command))
                for part in command:
                    stream.write(b"$%d\r\n%s\r\n" % (len(part.encode()), part.encode()))
                stream.flush()
                return _reply(stream)
        except OSError:
            return ""

    def hash(self, key: str) -> dict[str, str]:
        """All fields of a hash."""
        parts = self.cli("HGETALL", key).split("\n") if self.cli("EXISTS", key) == "1" else []
        return dict(zip(parts[::2], parts[1::2], strict=True))


def _commands(path: Path) -> Iterator[str]:
    with path.open("rb") as stream:
        while stream.peek(1):
            yield _reply(stream)


def _reply(stream) -> str:  # type: ignore[no-untyped-def]
    line = stream.readline().strip().decode()
    if line.startswith("*"):
        return "\n".join(_reply(stream) for _ in range(int(line[1:])))
    if line.startswith("$"):
        return "" if line == "$-1" else stream.read(int(line[1:]) + 2)[:-2].decode()
    return line[1:]
