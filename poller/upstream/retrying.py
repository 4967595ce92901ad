"""Retries inside one ask: few, bounded in count and in seconds, jittered, and only for what may pass.

With the defaults (3 retries, 1 s first) an ask that fails for good costs 4 requests and at most 7 s of waiting; the
lane's retry budget keeps all of them together under a fifth of its requests.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
import tenacity

from poller.core.model import Answer
from poller.core.schedule import backoff_s, jitter
from poller.errors import AskFailed, AskReason

_PASSING: Final = frozenset(
    {
        AskReason.CONNECT,
        AskReason.TIMEOUT,
        AskReason.NETWORK,
        AskReason.RATE_LIMITED,
        AskReason.SERVER_ERROR,
    }
)
_PASSING_STATUSES: Final = frozenset({408, 425})


def may_pass(error: BaseException) -> bool:
    """Whether the same request may fare better in a moment.

    >>> [may_pass(AskFailed(reason)) for reason in (AskReason.CONNECT, AskReason.AUTH)]
    [True, False]
    """
    return isinstance(error, AskFailed) and (error.reason in _PASSING or error.http_status in _PASSING_STATUSES)


async def ask_with_retries(
    once: Callable[[], Awaitable[Answer]],
    *,
    retry_count: int,
    first_delay_s: float,
    last_delay_s: float = 15.0,
    total_s: float,
    may_retry: Callable[[], bool],
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    chance: Callable[[], float] = random.random,
) -> Answer:
    """What *once* returns, tried again up to *retry_count* times while no retry would start after *total_s*.

    Delays double from *first_delay_s* to *last_delay_s*; a Retry-After is a floor, and one that *total_s* has no room
    for ends the ask at once. *may_retry* is asked last and takes one retry from the budget. Raises the ``AskFailed`` of
    the last try as it was, its ``retry_after_s`` included.
    """

    def wait_s(state: tenacity.RetryCallState) -> float:
        delay_s = jitter(backoff_s(state.attempt_number, first_delay_s, last_delay_s), chance())
        error = state.outcome.exception() if state.outcome else None
        wish_s = error.retry_after_s if isinstance(error, AskFailed) else None
        # Clients that were told the same moment must not come back in the same moment.
        return delay_s if wish_s is None else max(delay_s, wish_s + first_delay_s * chance())

    def is_over(state: tenacity.RetryCallState) -> bool:
        spent_s = max(state.seconds_since_start or 0.0, state.idle_for)
        return state.attempt_number > retry_count or spent_s + state.upcoming_sleep > total_s or not may_retry()

    tries = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception(may_pass), wait=wait_s, stop=is_over, sleep=sleep, reraise=True
    )
    return await tries(once)
