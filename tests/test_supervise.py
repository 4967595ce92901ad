"""Loops outlive their failures, and what lasts does not fill the log."""

from __future__ import annotations

import anyio
import pytest

from poller import supervise
from poller.errors import DatabaseAway
from tests.ops.things import recorder


@pytest.mark.parametrize(
    ("failure", "event"), [(DatabaseAway("auth_failed"), "loop_deferred"), (ValueError("x"), "loop_failed")], ids=str
)
async def test_a_failure_that_lasts_is_said_at_growing_distance(
    monkeypatch: pytest.MonkeyPatch, failure: Exception, event: str
):
    monkeypatch.setattr(supervise, "backoff_s", lambda *_: 0.0)
    told, lines, clock = recorder()
    turns, said_at = 0, []
    ended = anyio.Event()

    async def turn() -> float:
        nonlocal turns
        if len(lines.events) > len(said_at):
            said_at.append(turns)
        turns += 1
        # Past the half minute in which one line stands for all loops.
        clock.now += 60.0
        if turns > 20:
            ended.set()
            await anyio.sleep_forever()
        raise failure

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(supervise.supervised, "look", turn, told)
            await ended.wait()
            group.cancel_scope.cancel()
    assert said_at == [1, 2, 4, 8, 16]
    assert {each["event"] for each in lines.events} == {event}
