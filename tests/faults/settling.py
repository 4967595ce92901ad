"""Settling what a seeded database holds straight through the store: what the daemon does, without asking anybody."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from poller.core.model import Outcome, Settlement, Task
from poller.postgres.store import Store


async def open_tasks(store: Store, channels: Sequence[int] = (1, 2, 3, 4)) -> list[Task]:
    """All active tasks, as pages read them."""
    return [task for channel in channels for task in (await store.page(channel, 0, 100_000)).tasks]


async def truly(connection: asyncpg.Connection, tasks: Sequence[Task]) -> list[Settlement]:
    """The settlement that upstream's truth and the prices ask for, of each task."""
    rows = await connection.fetch("SELECT task_pk, outcome, charged FROM inv.truth")
    truth = {row["task_pk"]: row for row in rows}
    return [
        Settlement(
            task,
            Outcome(truth[task.pk]["outcome"]),
            truth[task.pk]["charged"],
            rule="success_word" if truth[task.pk]["outcome"] == "SUCCESS" else "failed_word",
            fail_reason="" if truth[task.pk]["outcome"] == "SUCCESS" else "upstream broke",
            data='{"status": "told"}',
            evidence="said so",
        )
        for task in tasks
    ]


async def settle_everything(connection: asyncpg.Connection, store: Store) -> None:
    """Settle all that is open, in batches of 20."""
    settlements = await truly(connection, await open_tasks(store))
    for start in range(0, len(settlements), 20):
        await store.settle(settlements[start : start + 20])
