"""A TCP proxy in front of PostgreSQL's socket that a test can tell to swallow, change or cut what passes."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Callable
from pathlib import Path

Rule = Callable[[bytes], bytes | None]
"""What to pass on instead of the bytes given; empty swallows them, None cuts the connection."""


def as_is(data: bytes) -> bytes:
    return data


def swallow(_data: bytes) -> bytes:
    return b""


def other_pid(data: bytes) -> bytes:
    """As a pooler does: tell the client a process id that no server process has."""
    at = data.find(b"K\x00\x00\x00\x0c")
    return data if at < 0 else data[: at + 5] + struct.pack("!i", 1) + data[at + 9 :]


class Proxy:
    """Listens on loopback; ``to_server`` and ``to_client`` may be changed at any time."""

    def __init__(self, socket_path: Path) -> None:
        self.to_server: Rule = as_is
        self.to_client: Rule = as_is
        self.port = 0
        self._socket_path = socket_path
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_unix_connection(str(self._socket_path))
        pair = (writer, server_writer)
        for source, target, side in ((reader, server_writer, "to_server"), (server_reader, writer, "to_client")):
            task = asyncio.create_task(self._pump(source, target, side, pair))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(
        self,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        side: str,
        pair: tuple[asyncio.StreamWriter, ...],
    ) -> None:
        try:
            with contextlib.suppress(ConnectionError):
                while data := await source.read(65536):
                    passed = getattr(self, side)(data)
                    if passed is None:
                        break
                    target.write(passed)
                    await target.drain()
        finally:
            for writer in pair:
                writer.transport.abort()
