"""Settling while somebody else is at the same rows: what counts is what stands there once the lock is ours."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator

import anyio
import asyncpg
import pytest

from poller.core.model import Verdict
from tests.postgres.eventually import eventually
from tests.postgres.gateway import Site, failed, open_site, open_store, succeeded

LIMIT_S = 60


@pytest.fixture
async def site(make_database, open_database, profile_name) -> AsyncIterator[Site]:
    with anyio.fail_after(LIMIT_S):
        made = await open_site(make_database, open_database, profile_name)
    yield made
    await made.gateway.connection.close()


async def seeded(site: Site, *quotas: int) -> tuple[int, int, list]:
    user, channel = await site.gateway.user(), await site.gateway.channel()
    for quota in quotas:
        await site.gateway.task(user, channel, quota)
    return user, channel, await site.tasks(channel)


async def test_amount_that_the_gateway_is_just_changing_is_waited_for(site):
    user, _, (task,) = await seeded(site, 450)
    rival = await asyncpg.connect(site.gateway.dsn)
    fates = []

    async def settle() -> None:
        fates.extend(await site.store.settle([failed(task)]))

    with anyio.fail_after(LIMIT_S):
        async with anyio.create_task_group() as group, rival.transaction():
            await rival.execute("UPDATE tasks SET quota = 200 WHERE id = $1", task.pk)
            group.start_soon(settle)
            await eventually(lambda: site.gateway.rows("SELECT 1 FROM pg_locks WHERE NOT granted"))
    await rival.close()
    assert [(fate.verdict, fate.reserved) for fate in fates] == [(Verdict.SETTLED, 200)]
    assert (await site.gateway.balance(user))[0] == 1200


async def test_as_reserved_means_what_the_row_says_now(site):
    user, _, (task,) = await seeded(site, 450)
    await site.gateway.connection.execute("UPDATE tasks SET quota = 200 WHERE id = $1", task.pk)
    (fate,) = await site.store.settle([succeeded(task, None)])
    assert (fate.reserved, fate.charged, fate.refunded) == (200, 200, 0)
    assert (await site.gateway.balance(user))[0] == 1000


async def test_another_task_with_the_pk_and_the_amount_of_a_settled_one_is_for_a_person(site):
    user, channel, (task,) = await seeded(site, 450)
    await site.store.settle([failed(task)])
    await site.gateway.connection.execute("DELETE FROM tasks WHERE id = $1", task.pk)
    await site.gateway.task(user, channel, 450, id=task.pk)
    (fresh,) = await site.tasks(channel)
    (fate,) = await site.store.settle([failed(fresh)])
    assert (fate.verdict, fate.reason) == (Verdict.QUARANTINED, "ledger_of_another_task")
    assert await site.tasks(channel) == []
    assert (await site.gateway.balance(user))[0] == 1450


async def test_who_loses_the_race_for_a_task_is_told_that_it_was_settled(site, open_database):
    _, _, tasks = await seeded(site, *[10] * 40)
    stores = [await open_store(await open_database(site.gateway.dsn), site.gateway) for _ in range(2)]
    told: list[Verdict] = []

    async def settle_all(store, seed: int) -> None:
        for start in range(0, 40, 8):
            some = tasks[start : start + 8]
            random.Random(seed).shuffle(some)
            told.extend(fate.verdict for fate in await store.settle([failed(task) for task in some]))

    with anyio.fail_after(LIMIT_S):
        async with anyio.create_task_group() as group:
            for seed, store in enumerate(stores):
                group.start_soon(settle_all, store, seed)
    assert told.count(Verdict.SETTLED) == 40
    assert set(told) <= {Verdict.SETTLED, Verdict.ALREADY, Verdict.LOCKED}


async def test_deadlock_costs_a_task_nothing_of_what_was_to_be_written(site, open_database):
    user, _, (task,) = await seeded(site, 450)
    rival = await asyncpg.connect(site.gateway.dsn)
    # The server looks for a deadlock once, so long after somebody began to wait: we do, when there is one, and lose.
    await rival.execute("SET deadlock_timeout = '20s'")
    (name,) = await site.gateway.rows("SELECT current_database() AS name")
    await site.gateway.connection.execute(f"ALTER DATABASE {name['name']} SET deadlock_timeout = '300ms'")
    store = await open_store(await open_database(site.gateway.dsn), site.gateway)
    fates = []

    async def settle() -> None:
        fates.extend(await store.settle([failed(task, data='{"kept": true}')]))

    with anyio.fail_after(LIMIT_S):
        async with anyio.create_task_group() as group, rival.transaction():
            await rival.execute("UPDATE users SET quota = quota WHERE id = $1", user)
            group.start_soon(settle)
            await eventually(lambda: site.gateway.rows("SELECT 1 FROM pg_locks WHERE NOT granted"))
            await rival.execute("UPDATE tasks SET progress = '40%' WHERE id = $1", task.pk)
    await rival.close()
    assert [fate.verdict for fate in fates] == [Verdict.SETTLED]
    assert json.loads((await site.gateway.row("tasks", task.pk))["data"]) == {"kept": True}
