"""An upstream that misbehaves to order: raw TCP on loopback, so that nothing tidies up what is sent.

A *behaviour* is given each request and the way back. It returns to keep the connection, or raises ``Close``.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from poller.core.model import Channel, Route, Secret, StatusWords
from poller.upstream.client import Limits

KEY = "sk-canary-4f9d/5c1e"
TOKEN = "tok-canary-77aa"
WORDS = StatusWords(frozenset({"completed"}), frozenset({"failed"}), frozenset({"processing"}))


class Close(Exception):
    """The behaviour is done with the connection."""


@dataclass(frozen=True)
class Request:
    line: str
    headers: Mapping[str, str]
    body: bytes
    number: int
    """Which request of the server this is, from 1."""
    connection: int
    """Which connection it came over, from 1."""

    @property
    def ids(self) -> list[str]:
        return json.loads(self.body)["task_ids"]


Behaviour = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


class FaultServer:
    """Serves *behaviour* on a port of its own for as long as its block is entered."""

    def __init__(self, behaviour: Behaviour, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self.open_connections = 0
        self.port = 0
        self._behaviour = behaviour
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = asyncio.Event()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
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
        connection = self.connections
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                request = Request(head[0], headers, body, len(self.requests) + 1, connection)
                self.requests.append(request)
                await self._behaviour(request, writer)
                await writer.drain()
        except (Close, OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.open_connections -= 1
            self._closed.set()
            self._tasks.discard(task)
            writer.close()


def answer_of(ids: Sequence[str], status: str = "processing") -> bytes:
    """The JSON of a good answer with one item for each of *ids*."""
    return json.dumps({"code": 0, "msg": "ok", "data": [{"task_id": i, "status": status} for i in ids]}).encode()


def response(body: bytes, status: str = "200 OK", headers: Sequence[str] = ()) -> bytes:
    """A whole HTTP response."""
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def good(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(response(answer_of(request.ids)))


def sends(raw: bytes) -> Behaviour:
    """Writes *raw* and closes."""

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()
        raise Close

    return behave


def replies(body: bytes = b"", status: str = "200 OK", headers: Sequence[str] = ()) -> Behaviour:
    """Writes one whole response and keeps the connection."""

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(response(body, status, headers))

    return behave


async def hangs(request: Request, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def resets_in_the_body(request: Request, writer: asyncio.StreamWriter) -> None:
    whole = response(answer_of(request.ids))
    writer.write(whole[:-10])
    await writer.drain()
    reset(writer)
    raise Close


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def truncates(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(response(answer_of(request.ids))[:-10])
    await writer.drain()
    raise Close


async def drips(request: Request, writer: asyncio.StreamWriter) -> None:
    for byte in response(answer_of(request.ids) + b" " * 100_000):
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.01)


async def floods_with_processing(request: Request, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"HTTP/1.1 102 Processing\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.001)


async def never_ends_its_headers(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-A: b\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)


async def streams_for_ever(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    while True:
        writer.write(b" " * 65536)
        await writer.drain()


def bomb(size: int) -> bytes:
    """A gzip response that is small on the wire and *size* bytes when decoded."""
    return response(gzip.compress(b" " * size), headers=["Content-Encoding: gzip"])


def gzipped(plain: bytes) -> bytes:
    return response(gzip.compress(plain), headers=["Content-Encoding: gzip"])


def channel_at(url: str, **more: object) -> Channel:
    """A channel whose upstream is at *url*."""
    return Channel(7, 52, "c", url, (Secret(KEY),), WORDS, "X-Custom-Token", **more)  # type: ignore[arg-type]


ROUTE = Route("flux/submit", Secret(KEY), None, "")


def limits(**more: object) -> Limits:
    """Generous limits, for tests that are about something else."""
    defaults: dict[str, object] = {
        "task_timeout_s": 10.0,
        "http_timeout_s": 10.0,
        "max_response_bytes": 1 << 20,
        "connections": 10,
    }
    return Limits(**(defaults | more))  # type: ignore[arg-type]
