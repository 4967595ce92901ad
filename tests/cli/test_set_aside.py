"""Keys that tasks get again after TRUNCATE or a restore: former settlements are set aside, and nobody is paid twice."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from poller.core.model import Task, Verdict
from poller.postgres.audit import Auditor
from poller.postgres.ledger import Ledger
from poller.postgres.reconcile import Reconciler
from poller.postgres.statements import load
from tests.cli.conftest import Ran, Run
from tests.cli.test_commands import in_thread
from tests.postgres.gateway import Site, failed, open_site, open_store, succeeded

LIMIT_S = 60
ASIDE = ("tasks", "requeue", "--set-ledger-aside", "--yes")


@pytest.fixture
async def site(make_database, open_database, profile_name) -> AsyncIterator[Site]:
    with anyio.fail_after(LIMIT_S):
        made = await open_site(make_database, open_database, profile_name)
    yield made
    await made.gateway.connection.close()


class Past:
    """A gateway whose table of tasks was truncated after they were settled."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.user = self.channel = 0
        self.start: dict[int, tuple[int, int]] = {}
        self.former: list[dict] = []

    @classmethod
    async def of(cls, site: Site, count: int = 1) -> Past:
        """*count* tasks of 450 were settled, and as many others are open under their keys."""
        past = cls(site)
        past.user, past.channel = await site.gateway.user(), await site.gateway.channel()
        past.start = {past.user: await site.gateway.balance(past.user)}
        await past.submit(count)
        await past.settle()
        past.former = await site.gateway.rows("SELECT * FROM tasks ORDER BY id")
        await past.truncate()
        await past.submit(count)
        return past

    async def truncate(self) -> None:
        await self.site.gateway.connection.execute("TRUNCATE tasks RESTART IDENTITY")

    async def submit(self, count: int = 1, **more: object) -> None:
        times = "SELECT floor(extract(epoch FROM clock_timestamp()))::bigint"
        now_s = await self.site.gateway.connection.fetchval(times)
        submitted = {} if self.site.gateway.profile == "documented" else {"submit_time": now_s, "created_at": now_s}
        for _ in range(count):
            await self.site.gateway.task(self.user, self.channel, 450, **(submitted | more))

    async def tasks(self) -> list[Task]:
        return await self.site.tasks(self.channel)

    async def settle(self) -> list[Verdict]:
        return [fate.verdict for fate in await self.site.store.settle([failed(each) for each in await self.tasks()])]

    async def refunds(self) -> int:
        """How many refunds of 450 the user got."""
        return ((await self.site.gateway.balance(self.user))[0] - self.start[self.user][0]) // 450

    async def put_back(self, former: list[dict]) -> None:
        """Rows of a backup that was made before they were settled."""
        for row in former:
            await self.site.gateway.connection.execute("DELETE FROM tasks WHERE id = $1", row["id"])
            values = row | {"status": self.site.gateway.word("IN_PROGRESS"), "quota": 450, "progress": "30%"}
            await self.site.gateway.add("tasks", **values)

    async def actions(self) -> list[str]:
        rows = await self.site.gateway.rows("SELECT action FROM poller.operator_action ORDER BY id")
        return [row["action"] for row in rows]


async def run(site: Site, poller: Run, *arguments: str) -> Ran:
    return await in_thread(poller, *arguments, SQL_DSN=site.gateway.dsn)


def ledger_of(site: Site) -> Ledger:
    return Ledger(site.database, load(site.gateway.profile))


async def test_a_task_with_the_key_of_a_former_one_is_refunded_once_its_settlement_is_set_aside(site, poller: Run):
    with anyio.fail_after(LIMIT_S):
        past = await Past.of(site)
        (before,) = await site.gateway.ledger()
        assert await past.settle() == [Verdict.QUARANTINED]
        told = await run(site, poller, "task", "job-2")
        assert "--set-ledger-aside" in told.out
        assert "none: no money has moved; the ledger has its key for task job-1" in told.out
        ran = await run(site, poller, *ASIDE, "job-2")
        assert (ran.code, ran.err) == (0, "")
        assert "1 requeued, 0 left as they were" in ran.out
        assert await past.settle() == [Verdict.SETTLED]
        await site.expect_money(past.start)
        assert await past.refunds() == 2
        aside, new = await site.gateway.ledger()
        assert new["task_id"] == "job-2"
        assert aside == before | {"task_pk": -1, "set_aside_of": before["task_pk"]}
        assert await past.actions() == ["ledger_set_aside", "requeue"]
        assert "settlement of task job-1" in (await run(site, poller, "task", "job-2")).out


async def test_doing_it_again_changes_nothing(site, poller: Run):
    with anyio.fail_after(LIMIT_S):
        past = await Past.of(site)
        await past.settle()
        await run(site, poller, *ASIDE, "job-2")
        ledger = await site.gateway.ledger()
        again = await run(site, poller, *ASIDE, "job-2")
        assert again.code == 1
        assert "no settlement of another task is in its way" in again.err
        assert (await run(site, poller, *ASIDE, "--all")).code == 0
        assert await site.gateway.ledger() == ledger
        await past.settle()
        settled = await site.gateway.ledger()
        third = await run(site, poller, *ASIDE, "job-2")
        assert third.code == 1
        assert "the ledger row has its id" in third.err
        assert await site.gateway.ledger() == settled
        assert await past.refunds() == 2


async def test_all_that_are_held_for_it_are_freed_at_once_and_others_stay(site, poller: Run, monkeypatch):
    monkeypatch.setattr("poller.cli.aside._AT_ONCE", 3)
    with anyio.fail_after(LIMIT_S):
        past = await Past.of(site, 7)
        other, *_ = await past.tasks()
        await site.store.quarantine([(other, "deadline_hold", "")])
        assert await past.settle() == [Verdict.QUARANTINED] * 6
        ran = await run(site, poller, *ASIDE, "--all")
        assert (ran.code, ran.err) == (0, "")
        assert ran.out == "6 requeued, 0 left as they were\n"
        assert await past.settle() == [Verdict.SETTLED] * 6
        await site.expect_money(past.start)
        assert [row["task_pk"] for row in await site.gateway.rows("SELECT task_pk FROM poller.watch")] == [other.pk]


async def test_nothing_happens_without_an_explicit_word(site, poller: Run):
    with anyio.fail_after(LIMIT_S):
        past = await Past.of(site)
        await past.settle()
        ran = await run(site, poller, "tasks", "requeue", "--set-ledger-aside", "--all")
        assert (ran.code, "say --yes" in ran.err) == (64, True)
        for wrong in (("--all",), ("--yes", "job-2"), (), ("--set-ledger-aside", "--all", "job-2")):
            assert (await run(site, poller, "tasks", "requeue", *wrong)).code == 64
        assert [row["task_pk"] for row in await site.gateway.ledger()] == [1]
        # Plainly requeued it meets the same row, and is held again.
        assert (await run(site, poller, "tasks", "requeue", "job-2")).code == 0
        assert await past.settle() == [Verdict.QUARANTINED]
        assert await past.refunds() == 1


CHANGES = {
    "settled, and opened again": {},
    "its user is another now": {"user_id": 99},
    "its id is another now": {"task_id": "rewritten"},
}


@pytest.mark.parametrize("change", CHANGES)
async def test_the_ledger_row_of_the_task_itself_is_never_set_aside(site, poller: Run, change):
    with anyio.fail_after(LIMIT_S):
        past = Past(site)
        past.user, past.channel = await site.gateway.user(), await site.gateway.channel()
        past.start = {past.user: await site.gateway.balance(past.user)}
        await past.submit()
        await site.gateway.connection.execute("SELECT pg_sleep(1.1)")
        await past.settle()
        (task,) = await site.gateway.rows("SELECT * FROM tasks")
        await past.put_back([task | CHANGES[change]])
        if "task_id" not in CHANGES[change]:
            # The id alone tells, whatever the clocks say.
            await site.gateway.connection.execute("UPDATE poller.ledger SET settled_at = settled_at - interval '1 day'")
        ledger = await site.gateway.ledger()
        ran = await run(site, poller, *ASIDE, f"pk:{task['id']}")
        assert (ran.code, "left as it is" in ran.err) == (1, True), ran
        assert await site.gateway.ledger() == ledger
        await past.settle()
        assert await past.refunds() == 1


async def test_the_ledger_row_of_a_task_that_was_settled_within_its_second_is_never_set_aside(site, poller: Run):
    """Its time is not before its settlement: its id alone tells that it is the same."""
    with anyio.fail_after(LIMIT_S):
        past = Past(site)
        past.user, past.channel = await site.gateway.user(), await site.gateway.channel()
        past.start = {past.user: await site.gateway.balance(past.user)}
        await past.submit()
        await past.settle()
        (task,) = await site.gateway.rows("SELECT * FROM tasks")
        # Whatever its profile counts in, by the settlement's own time and a second more.
        later = await site.gateway.connection.fetchval("SELECT settled_at + interval '1s' FROM poller.ledger")
        born = (
            {"created_at": later} if site.gateway.profile == "documented" else {"submit_time": int(later.timestamp())}
        )
        await past.put_back([task | {"status": site.gateway.word("IN_PROGRESS"), "quota": 450} | born])
        ledger = await site.gateway.ledger()
        ran = await run(site, poller, *ASIDE, f"pk:{task['id']}")
        assert (ran.code, "left as it is" in ran.err) == (1, True), ran
        assert await site.gateway.ledger() == ledger


async def test_a_task_that_comes_back_from_a_backup_is_not_paid_again_though_its_settlement_was_set_aside(
    site, poller: Run
):
    with anyio.fail_after(LIMIT_S):
        past = await Past.of(site)
        await past.settle()
        await run(site, poller, *ASIDE, "--all")
        # Before the other one was settled: its key is free.
        await past.put_back(past.former)
        assert await past.settle() == [Verdict.REOPENED]
        assert await past.refunds() == 1
        await past.truncate()
        await past.submit()
        assert await past.settle() == [Verdict.SETTLED]
        # And after: its key is somebody else's.
        await past.put_back(past.former)
        ran = await run(site, poller, *ASIDE, "job-1")
        assert ran.code == 1
        assert "it was settled itself" in ran.err
        assert await past.settle() == [Verdict.REOPENED]
        assert await past.refunds() == 2
        await site.expect_money(past.start)
        # Not even when an account was merged into another one meanwhile.
        await past.put_back([past.former[0] | {"user_id": 77}])
        await site.gateway.connection.execute("DELETE FROM poller.ledger WHERE task_pk = 1")
        assert await past.settle() == [Verdict.QUARANTINED]
        ran = await run(site, poller, *ASIDE, "--all")
        assert (ran.code, "the ledger row has its id" in ran.err) == (1, True)


async def test_keys_may_be_given_again_and_again(site, poller: Run):
    with anyio.fail_after(LIMIT_S):
        past = await Past.of(site, 2)
        for turn in range(2, 5):
            await past.settle()
            assert (await run(site, poller, *ASIDE, "--all")).code == 0
            assert await past.settle() == [Verdict.SETTLED] * 2
            assert await past.refunds() == 2 * turn
            await past.truncate()
            await past.submit(2)
        assert [row["set_aside_of"] for row in await site.gateway.ledger()].count(1) == 3
        await site.expect_money(past.start)


async def test_daemons_two_persons_and_reconcile_at_once_pay_each_task_once(site, open_database):
    with anyio.fail_after(LIMIT_S):
        past = await Past.of(site, 20)
        tasks = await past.tasks()
        await past.settle()
        pks = [task.pk for task in tasks]
        persons = [Ledger(await open_database(site.gateway.dsn), load(site.gateway.profile)) for _ in range(2)]
        daemons = [
            await open_store(await open_database(site.gateway.dsn), site.gateway, replica_id=f"replica-{n}")
            for n in range(2, 4)
        ]
        found: list[str] = []

        async def sets_aside(ledger: Ledger, order: int) -> None:
            for start in range(0, 20, 5)[::order]:
                found.extend(each.verdict for each in await ledger.set_aside(pks[start : start + 5], "me"))

        async def settles(store) -> None:
            # From pages that were read long before, quarantine or not.
            for _ in range(15):
                await store.settle([failed(task) for task in tasks])

        async def repairs() -> None:
            reconciler = Reconciler(site.database, load(site.gateway.profile), replica_id="command")
            for _ in range(3):
                span = await reconciler.span(0.0)
                async for page in reconciler.owed(0.0, span, is_sure=True):
                    await reconciler.repair(page.findings)

        async with anyio.create_task_group() as group:
            for order, person in zip((1, -1), persons, strict=True):
                group.start_soon(sets_aside, person, order)
            for daemon in daemons:
                group.start_soon(settles, daemon)
            group.start_soon(repairs)
        await past.settle()
        assert found.count("set_aside") == 20
        assert await past.refunds() == 40
        await site.expect_money(past.start)
        ledger = await site.gateway.ledger()
        assert [row["task_pk"] for row in ledger] == sorted([-n for n in range(1, 21)] + pks)
        assert sum(row["refunded"] for row in ledger) == 40 * 450


async def test_whoever_comes_while_a_row_is_being_set_aside_waits_and_pays_once(site, open_database):
    with anyio.fail_after(LIMIT_S):
        past = await Past.of(site)
        (task,) = await past.tasks()
        known, fates, others = load(site.gateway.profile), [], []
        second = Ledger(await open_database(site.gateway.dsn), known)
        daemon = await open_store(await open_database(site.gateway.dsn), site.gateway, replica_id="replica-2")

        async def sets_aside() -> None:
            others.extend(await second.set_aside([task.pk], "you"))

        async def settles() -> None:
            fates.extend(await daemon.settle([failed(task)]))

        async with anyio.create_task_group() as group, site.database.transaction() as transaction:
            await transaction.fetch(known.lock, [task.pk], [], "2000", False)
            await transaction.fetch(known.set_aside, [task.pk], "me")
            group.start_soon(sets_aside)
            group.start_soon(settles)
            while await waiting(site) < 2:
                await anyio.sleep(0.01)
        assert (fates[0].verdict, others[0].verdict in ("free", "own")) == (Verdict.SETTLED, True)
        assert await past.refunds() == 2
        assert [row["task_pk"] for row in await site.gateway.ledger()] == [-1, task.pk]


async def waiting(site: Site) -> int:
    """How many sessions of this database wait for a lock."""
    return await site.gateway.connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )


async def test_a_note_that_a_daemon_writes_late_does_not_hold_what_was_freed(site):
    with anyio.fail_after(LIMIT_S):
        past = await Past.of(site)
        (task,) = await past.tasks()
        await ledger_of(site).set_aside([task.pk], "me")
        assert await site.store.quarantine([(task, "ledger_of_another_task", "met before")]) == 0
        assert await past.settle() == [Verdict.SETTLED]


async def test_audit_and_reconcile_are_exact_with_settlements_set_aside(site, poller: Run):
    with anyio.fail_after(LIMIT_S):
        past = await Past.of(site, 3)
        await past.settle()
        auditor = Auditor(site.database, load(site.gateway.profile), replica_id="replica-1", grace_s=0.0)
        await site.gateway.connection.execute("UPDATE poller.ledger SET settled_at = settled_at - interval '10 min'")
        assert (await drift(auditor)) == 3 * 450
        assert (await run(site, poller, "reconcile")).code == 2
        assert (await run(site, poller, *ASIDE, "--all")).code == 0
        assert (await drift(auditor)) == 0
        await past.settle()
        await site.gateway.connection.execute(
            "UPDATE poller.ledger SET settled_at = settled_at - interval '5 min' WHERE task_pk > 0"
        )
        if site.gateway.profile != "main":
            time = "l.settled_at" if site.gateway.profile == "documented" else "floor(extract(epoch FROM l.settled_at))"
            await site.gateway.connection.execute(
                f"UPDATE logs SET created_at = {time} FROM poller.ledger AS l WHERE strpos(logs.content, l.task_id) > 0"
            )
        assert (await drift(auditor)) == 0
        clean = await run(site, poller, "reconcile")
        assert clean.code == 0, clean.out
        # What is wrong with a new settlement is still seen, and only that.
        await site.gateway.connection.execute("UPDATE tasks SET quota = 100 WHERE id = 2")
        fresh = Auditor(site.database, load(site.gateway.profile), replica_id="replica-1", grace_s=0.0)
        assert (await drift(fresh)) == (350 if site.gateway.profile == "fork" else 100)
        assert (await run(site, poller, "reconcile")).code == 2


async def drift(auditor: Auditor) -> int:
    for _ in range(3):
        found = await auditor.look()
    return int(found.drift_quota)


async def test_the_ledger_counts_as_whole_while_the_settlement_noted_last_is_set_aside(site):
    with anyio.fail_after(LIMIT_S):
        past = await Past.of(site)
        ledger = ledger_of(site)
        await ledger.note()
        noted = "SELECT ledger_pk FROM poller.control"
        (task,) = await past.tasks()
        assert await site.gateway.connection.fetchval(noted) == task.pk
        await ledger.set_aside([task.pk], "me")
        await ledger.note()
        assert not await ledger.accept_loss("me")
        (fate,) = await site.store.settle([succeeded(task, 41)])
        assert fate.verdict is Verdict.SETTLED
        await ledger.note()


async def test_a_settlement_whose_log_row_is_on_its_way_is_not_set_aside_yet(site):
    with anyio.fail_after(LIMIT_S):
        past = await Past.of(site)
        (task,) = await past.tasks()
        await site.gateway.connection.execute(
            "INSERT INTO poller.outbox (kind, task_pk, payload) VALUES ('log', $1, '{}')", task.pk
        )
        (left,) = await ledger_of(site).set_aside([task.pk], "me")
        assert left.verdict == "undelivered"
        await site.gateway.connection.execute("DELETE FROM poller.outbox")
        (done,) = await ledger_of(site).set_aside([task.pk], "me")
        assert done.verdict == "set_aside"
