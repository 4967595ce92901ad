"""Faults of what a gateway keeps outside of its database: the log database and Redis."""

from __future__ import annotations

import random
import signal
from typing import TYPE_CHECKING

import anyio

from tests.faults.plan import Step
from tests.faults.proxy import HOWS

if TYPE_CHECKING:
    from tests.faults.rig import Rig

_FROZEN_S = 2.5
"""Longer than a daemon waits for an answer."""


async def logs_away(rig: Rig, step: Step) -> None:
    """Connections to the log database are reset and new ones refused for a while."""
    logs = rig.outside.logs
    assert logs is not None
    before = logs.refused
    logs.is_refusing = True
    cut = logs.cut_all()
    await anyio.sleep(1.2)
    logs.is_refusing = False
    rig.hits["logs_away"] += cut + logs.refused - before


async def logs_cuts(rig: Rig, step: Step) -> None:
    """Connections to the log database cut before, during and after COMMIT."""
    logs, chance = rig.outside.logs, random.Random(step.seed)
    assert logs is not None
    before = logs.cuts.total()
    logs.cut_commits([chance.choice(HOWS) for _ in range(chance.randint(2, 6))])
    with anyio.move_on_after(3):
        while logs.cuts.total() == before:
            await anyio.sleep(0.05)
    rig.hits["logs_cuts"] += logs.cuts.total() - before


async def logs_ended(rig: Rig, step: Step) -> None:
    """``pg_terminate_backend`` for the sessions on the log database."""
    chance = random.Random(step.seed)
    with anyio.move_on_after(2):
        while True:
            rows = await rig.admin(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() || '_logs'"
            )
            rig.hits["logs_ended"] += len(rows)
            await anyio.sleep(chance.random() * 0.2)


async def redis_killed(rig: Rig, step: Step) -> None:
    """``kill -9`` of Redis, which is away for a moment and then knows all that it had done."""
    redis = rig.outside.redis
    assert redis is not None
    async with rig.outside.turn:
        rig.outside.has_redis_broken = True
        redis.stop()
        await anyio.sleep(random.Random(step.seed).random())
        redis.start()
    rig.hits["redis_killed"] += 1


async def redis_frozen(rig: Rig, step: Step) -> None:
    """SIGSTOP until nobody waits for an answer any more: then it does all that it was sent."""
    redis = rig.outside.redis
    assert redis is not None
    async with rig.outside.turn:
        rig.outside.has_redis_broken = True
        redis.signal(signal.SIGSTOP)
        try:
            await anyio.sleep(_FROZEN_S)
        finally:
            redis.signal(signal.SIGCONT)
    rig.hits["redis_frozen"] += 1


async def redis_cuts(rig: Rig, step: Step) -> None:
    """Commands or answers of Redis lost with their connection."""
    cache, chance = rig.outside.cache, random.Random(step.seed)
    rig.outside.has_redis_broken = True
    before = cache.cuts.total()
    with anyio.move_on_after(2):
        while True:
            cache.cut_next(chance.choice(("request", "reply")))
            await anyio.sleep(chance.random() * 0.5)
    rig.hits["redis_cuts"] += cache.cuts.total() - before


FAULTS = (logs_away, logs_cuts, logs_ended, redis_killed, redis_frozen, redis_cuts)
