"""Loops that must outlive their own failures, and the heart that shows that the process turns."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Protocol

import anyio

from poller.core.schedule import backoff_s, is_said
from poller.errors import Defer, PollerError

_BACKOFF_FIRST_S, _BACKOFF_LAST_S = 0.5, 15.0
_BEAT_S = 1.0
_LAG_SAID_S = 1.0


class Recorder(Protocol):
    """Who counts and logs what befalls a loop."""

    def event(self, level: str, name: str, **facts: object) -> None: ...

    def loop_lag(self, lag_s: float) -> None: ...


async def supervised(name: str, turn: Callable[[], Awaitable[float]], recorder: Recorder) -> None:
    """Call *turn* for ever; it returns the seconds until its next call.

    Outages (Defer) are waited out with capped backoff. Anything else is a bug of ours or a wrong schema: it is said,
    and the loop goes on, because the other loops and the money must not depend on this one. What lasts is said at
    growing distance.
    """
    failures = 0
    while True:
        try:
            wait_s = await turn()
            failures = 0
        except Defer as away:
            failures += 1
            wait_s = backoff_s(failures, _BACKOFF_FIRST_S, _BACKOFF_LAST_S)
            if is_said(failures):
                recorder.event("warning", "loop_deferred", loop=name, reason=str(away), retry_in=wait_s)
        except Exception as failure:  # noqa: BLE001 - a supervision point
            failures += 1
            wait_s = backoff_s(failures, _BACKOFF_FIRST_S, _BACKOFF_LAST_S)
            said = {"reason": str(failure)} if isinstance(failure, PollerError) else {"exc_info": failure}
            if is_said(failures):
                recorder.event("error", "loop_failed", loop=name, failures=failures, retry_in=wait_s, **said)
        await anyio.sleep(wait_s)


async def beat(recorder: Recorder, is_live: Callable[[], bool], pat: Callable[[], object], pat_s: float | None) -> None:
    """Measure and say how late the event loop wakes us, and pat the supervisor's watchdog while *is_live* says so.

    *pat_s* is the watchdog's pace in seconds; None when nobody watches.
    """
    pat_at = anyio.current_time()
    while True:
        before = anyio.current_time()
        await anyio.sleep(_BEAT_S)
        now = anyio.current_time()
        lag_s = max(0.0, now - before - _BEAT_S)
        recorder.loop_lag(lag_s)
        if lag_s >= _LAG_SAID_S:
            recorder.event("warning", "loop_blocked", duration_s=lag_s)
        if pat_s is not None and now >= pat_at and is_live():
            pat()
            pat_at = now + pat_s


@contextlib.contextmanager
def unfolded() -> Iterator[None]:
    """Let an error of our own leave the task groups around it as itself: its message is for a person."""
    try:
        yield
    except BaseExceptionGroup as group:
        ours: BaseException | None = group.subgroup(PollerError)
        while isinstance(ours, BaseExceptionGroup):
            ours = ours.exceptions[0]
        if ours is None:
            raise
        raise ours from ours.__cause__
