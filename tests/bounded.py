"""A limit on whole tests: a wait that never ends is a failure, not a hang."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import ParamSpec

import anyio

P = ParamSpec("P")


def within(limit_s: float) -> Callable[[Callable[P, Awaitable[None]]], Callable[P, Awaitable[None]]]:
    """The decorated test fails when it takes longer than *limit_s*."""

    def bound(test: Callable[P, Awaitable[None]]) -> Callable[P, Awaitable[None]]:
        @functools.wraps(test)
        async def bounded(*args: P.args, **named: P.kwargs) -> None:
            with anyio.fail_after(limit_s):
                await test(*args, **named)

        return bounded

    return bound
