"""A ledger that was emptied, dropped or replaced: nothing is settled until it is back or a person accepts the loss."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import asyncpg
import pytest

from poller.core.model import Verdict
from poller.errors import LedgerMissing
from poller.postgres.ledger import Ledger
from poller.postgres.statements import load
from poller.postgres.watchman import Watchman
from poller.vigil import Vigil
from tests.postgres.gateway import Site, failed, open_site, open_store

LIMIT_S = 60


@pytest.fixture
async def site(make_database, open_database, profile_name) -> AsyncIterator[Site]:
    with anyio.fail_after(LIMIT_S):
        made = await open_site(make_database, open_database, profile_name)
    yield made
    await made.gateway.connection.close()


def ledger_of(site: Site) -> Ledger:
    return Ledger(site.database, load(site.gateway.profile))


async def settled(site: Site, count: int = 3) -> tuple[int, int, list]:
    """A user with as many settled tasks, noted, and one that is open."""
    user, channel = await site.gateway.user(), await site.gateway.channel()
    for _ in range(count):
        await site.gateway.task(user, channel, 450)
    tasks = await site.tasks(channel)
    await site.store.settle([failed(task) for task in tasks])
    await ledger_of(site).note()
    await site.gateway.task(user, channel, 450)
    return user, channel, tasks


async def reopen(site: Site, tasks: list) -> None:
    """The gateway saves whole rows that it had read before they were settled."""
    for task in tasks:
        await site.gateway.connection.execute(
            "UPDATE tasks SET status = $2, quota = 450, progress = '30%' WHERE id = $1",
            task.pk,
            site.gateway.word("IN_PROGRESS"),
        )


LOSSES = {
    "emptied": "TRUNCATE poller.ledger",
    "deleted": "DELETE FROM poller.ledger",
    "dropped": "DROP TABLE poller.ledger",
    "an older copy": "DELETE FROM poller.ledger WHERE task_pk > (SELECT min(task_pk) FROM poller.ledger);"
    " UPDATE poller.ledger SET settled_at = settled_at - interval '1 day'",
}
KEEP = "CREATE TABLE kept AS TABLE poller.ledger"
RESTORE = "INSERT INTO poller.ledger TABLE kept ON CONFLICT DO NOTHING"


@pytest.mark.parametrize("loss", LOSSES)
async def test_what_was_settled_before_the_ledger_was_lost_is_not_paid_again(site, loss):
    with anyio.fail_after(LIMIT_S):
        user, channel, tasks = await settled(site)
        balance = await site.gateway.balance(user)
        await site.gateway.connection.execute(KEEP)
        await site.gateway.connection.execute(
            "CREATE TABLE empty (LIKE poller.ledger INCLUDING ALL); ALTER TABLE empty SET SCHEMA poller"
        )
        await site.gateway.connection.execute(LOSSES[loss])
        await reopen(site, tasks)
        everything = await site.tasks(channel)
        # A replica that starts now knows no more than the others.
        newcomer = await open_store(site.database, site.gateway, replica_id="replica-2")
        # Whoever watches looks before, in between and after.
        for store in (site.store, newcomer):
            with pytest.raises(LedgerMissing):
                await ledger_of(site).note()
            with pytest.raises(LedgerMissing, match="accept-lost-ledger"):
                await store.settle([failed(task) for task in everything])
        with pytest.raises(LedgerMissing):
            await ledger_of(site).note()
        assert await site.gateway.balance(user) == balance
        assert len(await site.tasks(channel)) == len(everything) == len(tasks) + 1

        if loss == "dropped":
            await site.gateway.connection.execute("ALTER TABLE poller.empty RENAME TO ledger")
        await site.gateway.connection.execute(RESTORE)
        await ledger_of(site).note()
        fates = {fate.task.pk: fate.verdict for fate in await site.store.settle([failed(task) for task in everything])}
        assert [fates[task.pk] for task in tasks] == [Verdict.REOPENED] * len(tasks)
        assert (await site.gateway.balance(user))[0] == balance[0] + 450


async def test_a_person_may_go_on_without_what_the_ledger_lost(site):
    with anyio.fail_after(LIMIT_S):
        user, channel, _ = await settled(site)
        ledger, balance = ledger_of(site), await site.gateway.balance(user)
        assert not await ledger.accept_loss("me")
        await site.gateway.connection.execute("TRUNCATE poller.ledger")
        assert await ledger.accept_loss("me")
        await ledger.note()
        (fate,) = await site.store.settle([failed(task) for task in await site.tasks(channel)])
        assert fate.verdict is Verdict.SETTLED
        assert (await site.gateway.balance(user))[0] == balance[0] + 450
        acts = await site.gateway.rows("SELECT action FROM poller.operator_action")
        assert acts == [{"action": "ledger_loss_accepted"}]
        await ledger.note()
        await site.gateway.connection.execute("TRUNCATE poller.ledger")
        with pytest.raises(LedgerMissing):
            await ledger.note()


async def test_a_job_may_delete_old_rows_of_the_ledger(site):
    with anyio.fail_after(LIMIT_S):
        _, channel, tasks = await settled(site)
        age = "UPDATE poller.ledger SET settled_at = settled_at - interval '8 days' WHERE task_pk = ANY($1)"
        await site.gateway.connection.execute(age, [task.pk for task in tasks[:2]])
        await site.gateway.connection.execute("DELETE FROM poller.ledger WHERE settled_at < now() - interval '7 days'")
        await ledger_of(site).note()
        # Nothing was settled for long, and then even the newest row went.
        await site.gateway.connection.execute("UPDATE poller.control SET ledger_at = ledger_at - interval '8 days'")
        await site.gateway.connection.execute("TRUNCATE poller.ledger")
        await ledger_of(site).note()
        (fate,) = await site.store.settle([failed(task) for task in await site.tasks(channel)])
        assert fate.verdict is Verdict.SETTLED
        await ledger_of(site).note()
        await site.gateway.connection.execute("TRUNCATE poller.ledger")
        with pytest.raises(LedgerMissing):
            await ledger_of(site).note()


async def test_the_note_follows_the_ledger_and_is_seldom_written(site):
    with anyio.fail_after(LIMIT_S):
        _, channel, tasks = await settled(site)
        noted = await site.gateway.rows("SELECT xmin::text, ledger_pk FROM poller.control")
        await site.store.settle([failed(task) for task in await site.tasks(channel)])
        await ledger_of(site).note()
        assert await site.gateway.rows("SELECT xmin::text, ledger_pk FROM poller.control") == noted
        await site.gateway.connection.execute(
            "UPDATE poller.ledger SET settled_at = settled_at + interval '2 minutes' WHERE task_pk > $1", tasks[-1].pk
        )
        await ledger_of(site).note()
        (row,) = await site.gateway.rows("SELECT ledger_pk FROM poller.control")
        assert row["ledger_pk"] > tasks[-1].pk


async def test_nobody_empties_the_ledger_between_the_look_and_the_settlement(site):
    with anyio.fail_after(LIMIT_S):
        _, channel, _ = await settled(site)
        (task,) = await site.tasks(channel)
        sql = load(site.gateway.profile)
        async with site.database.transaction() as transaction:
            await transaction.fetch(sql.lock, [task.pk], [task.pk], "2000", False)
            await site.gateway.connection.execute("SET lock_timeout = '200ms'")
            with pytest.raises(asyncpg.LockNotAvailableError):
                await site.gateway.connection.execute("TRUNCATE poller.ledger")


class Told:
    def __init__(self) -> None:
        self.missing: list[str | None] = []
        self.writers: list[int] = []

    def ledger_missing(self, why: str | None) -> None:
        self.missing.append(why)

    def second_writer(self, channel_id: int, task_pks: object) -> None:
        self.writers.append(channel_id)


@pytest.mark.parametrize("loss", LOSSES)
async def test_without_its_ledger_the_daemon_suspects_nobody_of_writing_its_tasks(site, loss):
    with anyio.fail_after(LIMIT_S):
        told = Told()
        watchman = Watchman(site.database, load(site.gateway.profile))
        vigil = Vigil(watchman, None, None, None, ledger_of(site), told, dict, pace_s=15.0, stops_channels=False)
        await vigil.guard()
        await settled(site)
        await vigil.guard()
        await site.gateway.connection.execute(KEEP)
        await site.gateway.connection.execute(
            "CREATE TABLE empty (LIKE poller.ledger INCLUDING ALL); ALTER TABLE empty SET SCHEMA poller"
        )
        await site.gateway.connection.execute(LOSSES[loss])
        await vigil.guard()
        await vigil.guard()
        assert told.missing[:2] == [None, None]
        assert all(why and "ledger_missing" in why for why in told.missing[2:])
        if loss == "dropped":
            await site.gateway.connection.execute("ALTER TABLE poller.empty RENAME TO ledger")
        await site.gateway.connection.execute(RESTORE)
        await vigil.guard()
        await vigil.guard()
        assert told.missing[4:] == [None, None]
        assert told.writers == []
