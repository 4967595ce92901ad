"""Rows and rules of the house that a settlement must not believe, stumble over or blame on somebody's task."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from poller.core.model import Verdict
from tests.postgres.gateway import Site, failed, open_site

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


async def reopened_with(site: Site, pk: int, **columns: object) -> None:
    await site.gateway.set_state(pk, "SUBMITTED")
    for name, value in columns.items():
        await site.gateway.connection.execute(f"UPDATE tasks SET {name} = $2 WHERE id = $1", pk, value)


async def test_a_reopened_row_that_carries_another_amount_is_a_new_charge_and_goes_to_a_person(site):
    user, channel, (task,) = await seeded(site, 450)
    await site.store.settle([failed(task)])
    before = await site.gateway.balance(user)
    await reopened_with(site, task.pk, quota=300)
    (again,) = await site.tasks(channel)
    (fate,) = await site.store.settle([failed(again)])
    assert (fate.verdict, fate.reason) == (Verdict.QUARANTINED, "ledger_of_another_amount")
    assert (await site.gateway.row("tasks", task.pk))["quota"] == 300
    assert await site.gateway.balance(user) == before
    assert await site.tasks(channel) == []


async def test_an_amount_written_after_the_settlement_goes_to_a_person(site):
    _, channel, (task,) = await seeded(site, 0)
    await site.store.settle([failed(task)])
    await reopened_with(site, task.pk, quota=450)
    (again,) = await site.tasks(channel)
    (fate,) = await site.store.settle([failed(again)])
    assert (fate.verdict, fate.reason) == (Verdict.QUARANTINED, "ledger_of_another_amount")


async def test_an_open_row_whose_ledger_row_is_another_users_is_really_kept_for_a_person(site):
    _, channel, (task,) = await seeded(site, 450)
    await site.store.settle([failed(task)])
    await reopened_with(site, task.pk, user_id=await site.gateway.user(), quota=70)
    (again,) = await site.tasks(channel)
    (fate,) = await site.store.settle([failed(again)])
    assert (fate.verdict, fate.reason) == (Verdict.QUARANTINED, "ledger_of_another_task")
    assert await site.tasks(channel) == []


async def test_one_row_that_a_trigger_refuses_holds_up_nobody_else(site):
    connection = site.gateway.connection
    await connection.execute(
        """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.username = 'frozen' THEN RAISE EXCEPTION 'account is frozen'; END IF; RETURN NEW; END $$;
        CREATE TRIGGER refuse BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION refuse()"""
    )
    channel = await site.gateway.channel()
    users = [await site.gateway.user(username="frozen" if n == 7 else f"u{n}") for n in range(20)]
    for user in users:
        await site.gateway.task(user, channel, 450)
    fates = await site.store.settle([failed(task) for task in await site.tasks(channel)])
    by_user = {fate.task.user_id: fate for fate in fates}
    assert (by_user[users[7]].verdict, by_user[users[7]].reason) == (Verdict.LOCKED, "refused")
    assert all(by_user[user].verdict is Verdict.SETTLED for user in users if user != users[7])
    (left,) = await site.tasks(channel)
    assert left.user_id == users[7]


async def test_a_sequence_behind_its_table_delays_settlements_and_blames_no_task(site):
    user, channel, tasks = await seeded(site, 450, 450, 450)
    start = {user: await site.gateway.balance(user)}
    connection = site.gateway.connection
    await connection.execute(
        "INSERT INTO logs (id, user_id, type) SELECT i, 1, $$0$$ FROM generate_series(1, 50) i"
        if site.gateway.profile == "documented"
        else "INSERT INTO logs (id, user_id, type) SELECT i, 1, 0 FROM generate_series(1, 50) i"
    )
    fates = await site.store.settle([failed(task) for task in tasks])
    assert {(fate.verdict, fate.reason) for fate in fates} == {(Verdict.LOCKED, "duplicate_key")}
    await connection.execute("SELECT setval('logs_id_seq', 1000)")
    fates = await site.store.settle([failed(task) for task in await site.tasks(channel)])
    assert {fate.verdict for fate in fates} == {Verdict.SETTLED}
    await site.expect_money(start)


async def test_a_quarantined_task_stays_one_when_it_is_moved_to_another_channel(site):
    _, _, (task,) = await seeded(site, 450)
    assert await site.store.quarantine([(task, "deadline_hold", "a person looks")]) == 1
    other = await site.gateway.channel()
    await site.gateway.connection.execute("UPDATE tasks SET channel_id = $2 WHERE id = $1", task.pk, other)
    assert await site.tasks(other) == []


async def test_sightings_of_not_found_say_nothing_of_the_channel_that_a_task_was_moved_to(site):
    _, channel, (task,) = await seeded(site, 450)
    await site.store.remember(channel, [(task, 2)])
    other = await site.gateway.channel()
    await site.gateway.connection.execute("UPDATE tasks SET channel_id = $2 WHERE id = $1", task.pk, other)
    (moved,) = await site.tasks(other)
    assert moved.sightings == 0
    await site.store.remember(other, [(task, 1)])
    assert [each.sightings for each in await site.tasks(other)] == [1]
