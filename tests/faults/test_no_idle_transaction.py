"""While upstream is waited for, the daemon holds neither a transaction nor a lock."""

from __future__ import annotations

import anyio
import asyncpg

from poller import daemon
from poller.demo.fates import Lives
from poller.demo.simulator import Simulator
from poller.demo.troubles import Trouble
from poller.settings import load
from tests.e2e.harness import seeded, upstream
from tests.ops.things import recorder

LIMIT_S = 60
CHANNELS, TASKS, BATCH = 4, 80, 10
SEEN_S = 1.0
"""How long requests hang while it is looked."""
OPEN = """
    SELECT pid, state, query FROM pg_stat_activity
    WHERE application_name LIKE 'poller/%' AND datname = current_database()
        AND xact_start < clock_timestamp() - interval '500 ms'
"""
"""No statement of a pass takes so long here: such a transaction waits for something else."""


async def test_no_transaction_is_open_while_upstream_is_waited_for(make_database, profile_name):
    hanging = {f"/ch{n}": Trouble(hanging=1.0) for n in range(1, CHANNELS + 1)}
    simulator = Simulator(lives=Lives(seed=6, shortest_s=0.0, typical_s=0.001, longest_s=0.01), troubles=hanging)
    dsn = await make_database(profile_name)
    settings = {
        "SQL_DSN": dsn,
        "CUSTOM_PASS_TASK_TIMEOUT": "60s",
        "CUSTOM_PASS_BATCH_SIZE": str(BATCH),
        "ENABLE_METRICS": "false",
    }
    with anyio.fail_after(LIMIT_S):
        async with upstream(simulator) as url:
            await seeded(dsn, profile_name, TASKS, url, simulator)
            watcher = await asyncpg.connect(dsn)
            async with anyio.create_task_group() as group:
                group.start_soon(daemon.run, load(settings).settings, recorder()[0])
                while simulator.in_flight < CHANNELS:
                    await anyio.sleep(0.01)
                give_up = anyio.current_time() + SEEN_S
                while anyio.current_time() < give_up:
                    assert await watcher.fetch(OPEN) == []
                    await anyio.sleep(0.05)
                assert simulator.in_flight >= CHANNELS
                group.cancel_scope.cancel()
            await watcher.close()
