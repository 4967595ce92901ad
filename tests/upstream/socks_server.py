"""A SOCKS5 proxy on loopback, in as much of RFC 1928 and 1929 as a client of TCP needs, well behaved or not.

A *manner* is what it does when it is asked for a connection; other manners begin earlier. Names lead to 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from types import TracebackType
from typing import Self

from tests.upstream.faults_server import reset

REFUSED, UNREACHABLE, NOT_ALLOWED = 5, 4, 2


class SocksServer:
    """Serves on a port of its own for as long as its block is entered.

    *manner*: ``relays``; ``refuses`` with *code*; ``hangs``, ``closes``, ``resets`` or sends ``garbage`` when asked for
    a connection; the same ``at_once``, in the place of its first word.
    """

    def __init__(
        self, manner: str = "relays", *, login: tuple[str, str] | None = None, code: int = REFUSED, garbage: bytes = b""
    ) -> None:
        self.manner = manner
        self.asked: list[tuple[str, int]] = []
        """Host, as the client named it, and port of each connection asked for."""
        self.logins: list[tuple[str, str]] = []
        self.seen = bytearray()
        """All that was relayed."""
        self.connections = 0
        self.open_connections = 0
        self.port = 0
        self._login = login
        self._code = code
        self._garbage = garbage
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = asyncio.Event()

    def url(self, login: str = "", scheme: str = "socks5") -> str:
        return f"{scheme}://{login}{'@' if login else ''}127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def until_open(self, count: int) -> None:
        """Wait until no more than *count* connections are open."""
        while self.open_connections > count:
            self._closed.clear()
            await self._closed.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.open_connections += 1
        try:
            await self._misbehave(reader, writer, is_at_once=True)
            if not await self._greeted(reader, writer):
                return
            host, port = await self._asked_for(reader)
            self.asked.append((host, port))
            await self._misbehave(reader, writer, is_at_once=False)
            if self.manner == "refuses":
                writer.write(bytes([5, self._code, 0, 1, 0, 0, 0, 0, 0, 0]))
                return
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(bytes([5, 0, 0, 1, 127, 0, 0, 1]) + port.to_bytes(2))
            try:
                await asyncio.gather(self._pump(reader, inner_writer), self._pump(inner_reader, writer))
            finally:
                inner_writer.close()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.open_connections -= 1
            self._closed.set()
            self._tasks.discard(task)
            writer.close()

    async def _misbehave(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_at_once: bool) -> None:
        if self.manner in ("relays", "refuses") or self.manner.endswith("at_once") is not is_at_once:
            return
        match self.manner.removesuffix("_at_once"):
            case "hangs":
                await reader.read(-1)
            case "resets":
                reset(writer)
            case "garbage":
                writer.write(self._garbage)
                await writer.drain()
                await reader.read(-1)
        raise ConnectionError

    async def _greeted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        version, count = await reader.readexactly(2)
        assert version == 5
        methods = await reader.readexactly(count)
        method = 0 if self._login is None else 2
        if method not in methods:
            writer.write(b"\x05\xff")
            return False
        writer.write(bytes([5, method]))
        if self._login is None:
            return True
        assert await reader.readexactly(1) == b"\x01"
        user = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
        password = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
        self.logins.append((user, password))
        is_right = (user, password) == self._login
        writer.write(b"\x01\x00" if is_right else b"\x01\x01")
        return is_right

    async def _asked_for(self, reader: asyncio.StreamReader) -> tuple[str, int]:
        version, command, _, kind = await reader.readexactly(4)
        assert (version, command) == (5, 1)
        if kind == 3:
            host = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
        else:
            host = str(ipaddress.ip_address(await reader.readexactly(4 if kind == 1 else 16)))
        return host, int.from_bytes(await reader.readexactly(2))

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            self.seen += data
            sink.write(data)
            await sink.drain()
        with contextlib.suppress(OSError):
            sink.write_eof() if sink.can_write_eof() else sink.close()
