"""The one place where a test waits for what no event tells: a state inside another process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio


async def eventually(condition: Callable[[], Awaitable[object]]) -> None:
    """Return once *condition* holds; the caller bounds the wait with ``fail_after``."""
    while not await condition():
        await anyio.sleep(0.01)
