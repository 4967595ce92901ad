"""A TCP proxy that cuts connections, also at a chosen moment of PostgreSQL's COMMIT, or hangs, or refuses them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

HOWS = ("request", "during", "late", "reply")
"""Cut before COMMIT leaves us, in the middle of it, right after it, or when the server has already answered it."""

Target = Path | tuple[str, int]


class _Link:
    """One client connection and the server connection behind it."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        self.drops_reply = False

    def cut(self) -> None:
        for writer in (self.client, self.server):
            writer.transport.abort()


class Proxy:
    """Listens on loopback and forwards to wherever *target* says at that moment. ``cuts`` counts what it really did."""

    def __init__(self, target: Callable[[], Target]) -> None:
        self.cuts: Counter[str] = Counter()
        self.port = 0
        self.is_refusing = False
        self._target = target
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.refused = 0
        self._wanted: list[str] = []
        self._refusals = 0
        self._flows = asyncio.Event()
        self._flows.set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self._server.close()
        self._flows.set()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- what a test may ask for -------------------------------------------------------------------------------------

    def cut_commits(self, hows: list[str]) -> None:
        """Cut the next COMMITs, each in its own way, whoever sends them."""
        self._wanted.extend(hows)

    def cut_next(self, how: str) -> None:
        """Cut whatever is sent next: ``request`` before the server has it, ``reply`` once the server has answered.

        ``nothing`` cuts nothing and passes nothing on either: that connection hangs until the client gives it up.
        """
        self._wanted.append(f"any {how}")

    def refuse_next(self, count: int) -> None:
        """Refuse the next *count* connections."""
        self._refusals = count

    def cut_all(self) -> int:
        """Reset every open connection; returns how many."""
        count = len(self._links)
        for link in list(self._links):
            link.cut()
        self.cuts["all"] += count
        return count

    def hang(self) -> None:
        """A black hole: nothing passes any more, and nobody is told."""
        self._flows.clear()
        self.cuts["hang"] += len(self._links)

    def heal(self) -> None:
        """Pass everything on again. What hung is cut, as a network does that comes back after the peers forgot."""
        self._wanted.clear()
        self._refusals = 0
        self.is_refusing = False
        if not self._flows.is_set():
            for link in list(self._links):
                link.cut()
        self._flows.set()

    # -- passing on --------------------------------------------------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self.is_refusing or self._refusals:
                self._refusals = max(0, self._refusals - 1)
                self.refused += 1
                raise ConnectionRefusedError
            target = self._target()
            opening = (
                asyncio.open_unix_connection(str(target))
                if isinstance(target, Path)
                else asyncio.open_connection(*target)
            )
            server_reader, server_writer = await opening
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer, server_writer)
        self._links.add(link)
        for pump in (self._to_server(reader, link), self._to_client(server_reader, link)):
            task = asyncio.create_task(pump)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _to_server(self, reader: asyncio.StreamReader, link: _Link) -> None:
        with self._ending(link):
            while data := await reader.read(65536):
                await self._flows.wait()
                how = self._chosen(data)
                if how == "request":
                    return
                if how == "nothing":
                    while await reader.read(65536):
                        pass
                    return
                link.drops_reply = how == "reply"
                link.server.write(data[: len(data) // 2] if how == "during" else data)
                await link.server.drain()
                if how in ("during", "late"):
                    return

    async def _to_client(self, reader: asyncio.StreamReader, link: _Link) -> None:
        with self._ending(link):
            while data := await reader.read(65536):
                await self._flows.wait()
                if link.drops_reply:
                    return
                link.client.write(data)
                await link.client.drain()

    def _chosen(self, data: bytes) -> str:
        if not self._wanted:
            return ""
        how = self._wanted[0]
        if how.startswith("any "):
            how = how.removeprefix("any ")
        elif not (data[:1] == b"Q" and b"COMMIT" in data):
            return ""
        self._wanted.pop(0)
        self.cuts[how] += 1
        return how

    @contextlib.contextmanager
    def _ending(self, link: _Link):  # type: ignore[no-untyped-def]
        try:
            with contextlib.suppress(OSError):
                yield
        finally:
            # Aborting throws away what was not sent yet; give a COMMIT that shall arrive its way out first.
            link.server.close()
            link.client.transport.abort()
            self._links.discard(link)
