"""A line on which segments are lost, as far as a program can tell: TCP sends them again, and all behind them wait.

Below TCP nothing can be lost here without root. What a loss does to the stream can be had by anybody: the segment comes
one retransmission time-out late, twice that when the repeat is lost too and so on, and what was sent after it, though
it arrived, is delivered after it. A lost SYN delays the first byte in the same way, from a longer time-out. When
the other side has given up meanwhile, nobody gets the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from types import TracebackType
from typing import Self

SEGMENT = 536
"""Bytes: the smallest that every line must take."""


class LossyLink:
    """Leads a port of its own to *port* of this machine. Each segment is lost with the chance *loss*.

    *timeout_s* is the first retransmission time-out; that of a SYN is five times as long, as in Linux (200 ms, 1 s).
    """

    def __init__(self, port: int, *, loss: float, seed: int, timeout_s: float) -> None:
        self.port = 0
        self.sent = self.lost = 0
        """Segments, each counted once however often it was lost."""
        self._to = port
        self._loss = loss
        self._chance = random.Random(seed)
        self._timeout_s = timeout_s
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

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

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        outer = writer
        try:
            await self._travel(5 * self._timeout_s)
            inner_reader, inner = await asyncio.open_connection("127.0.0.1", self._to)
            try:
                await asyncio.gather(self._carry(reader, inner), self._carry(inner_reader, outer))
            finally:
                inner.close()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            outer.close()

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while segment := await source.read(SEGMENT):
            await self._travel(self._timeout_s)
            sink.write(segment)
            await sink.drain()
        with contextlib.suppress(OSError):
            sink.write_eof()

    async def _travel(self, timeout_s: float) -> None:
        """As long as one segment takes: no time at all, or as many time-outs as it is lost."""
        self.sent += 1
        waited_s = 0.0
        while self._chance.random() < self._loss:
            waited_s += timeout_s
            timeout_s *= 2
        if waited_s:
            self.lost += 1
            await asyncio.sleep(waited_s)
