"""Settling while rows are missing, locked, odd or fought over, and while connections die."""

from __future__ import annotations

import contextlib
import json
import os
import random
from collections import Counter
from collections.abc import AsyncIterator

import anyio
import asyncpg
import pytest

from poller import crashpoints
from poller.core.model import Advance, State, Task, Verdict
from poller.errors import DatabaseAway, NotPermitted
from poller.postgres import settle
from tests.postgres.eventually import eventually
from tests.postgres.gateway import Site, failed, open_site, open_store, succeeded

LIMIT_S = 60
KILLS = 40


@pytest.fixture
async def site(make_database, open_database, profile_name) -> AsyncIterator[Site]:
    with anyio.fail_after(LIMIT_S):
        made = await open_site(make_database, open_database, profile_name)
    yield made
    await made.gateway.connection.close()


@pytest.fixture
def hasty(monkeypatch) -> None:
    """Locks are waited for only a moment."""
    monkeypatch.setattr(settle, "_WHOLE", settle._Patience(tries=3, lock_s=0.1))
    monkeypatch.setattr(settle, "_HALVES", settle._Patience(tries=1, lock_s=0.05))


async def seeded(site: Site, users: int, tasks_each: int, quota: int = 10) -> tuple[list[int], int, list[Task]]:
    channel = await site.gateway.channel()
    owners = [await site.gateway.user() for _ in range(users)]
    for _ in range(tasks_each):
        for owner in owners:
            await site.gateway.task(owner, channel, quota)
    return owners, channel, await site.tasks(channel)


def verdicts(fates) -> list[tuple[str, str]]:
    return [(fate.verdict.value, fate.reason) for fate in fates]


# -- data that cannot be settled -------------------------------------------------------------------------------------


async def test_task_of_a_user_who_is_gone_is_quarantined_and_its_neighbours_settle(site):
    owners, channel, tasks = await seeded(site, 3, 1)
    await site.gateway.connection.execute("DELETE FROM users WHERE id = $1", owners[1])
    fates = await site.store.settle([failed(task) for task in tasks])
    assert verdicts(fates) == [("settled", ""), ("quarantined", "user_gone"), ("settled", "")]
    assert [(await site.gateway.balance(user))[0] for user in (owners[0], owners[2])] == [1010, 1010]
    assert (await site.gateway.row("tasks", tasks[1].pk))["status"] == site.gateway.word("IN_PROGRESS")
    assert await site.tasks(channel) == []


async def test_task_of_a_gone_user_that_moves_nothing_is_settled(site):
    owners, _, (task,) = await seeded(site, 1, 1)
    await site.gateway.connection.execute("DELETE FROM users WHERE id = $1", owners[0])
    assert verdicts(await site.store.settle([succeeded(task, None)])) == [("settled", "")]


async def test_refund_that_overflows_an_int4_balance_is_quarantined_and_its_neighbours_settle(site):
    await site.gateway.connection.execute("ALTER TABLE users ALTER quota TYPE integer")
    owners, _, tasks = await seeded(site, 5, 1)
    await site.gateway.connection.execute("UPDATE users SET quota = 2147483645 WHERE id = $1", owners[2])
    fates = await site.store.settle([failed(task) for task in tasks])
    wanted = [("settled", "")] * 5
    wanted[2] = ("quarantined", "quota_overflow")
    assert verdicts(fates) == wanted
    assert [(await site.gateway.balance(user))[0] for user in owners] == [1010, 1010, 2147483645, 1010, 1010]
    (note,) = await site.gateway.rows("SELECT task_pk, reason FROM poller.watch")
    assert note == {"task_pk": tasks[2].pk, "reason": "quota_overflow"}


@pytest.mark.parametrize("quota", [-1, -(2**63)])
async def test_negative_reservation_is_quarantined_and_its_neighbours_settle(site, quota):
    owners, _, tasks = await seeded(site, 3, 1)
    await site.gateway.connection.execute("UPDATE tasks SET quota = $2 WHERE id = $1", tasks[1].pk, quota)
    fates = await site.store.settle([succeeded(task, 5) for task in tasks])
    assert [verdict for verdict, _ in verdicts(fates)] == ["settled", "quarantined", "settled"]
    assert (await site.gateway.balance(owners[1]))[0] == 1000


@pytest.mark.parametrize(
    "data", ["no json", '{"a": "\\u0000"}', '{"a": "\udc00"}', "\x00", '{"a": 1e999999}', "[" * 20000]
)
async def test_odd_data_holds_no_money_back(site, data):
    owners, _, tasks = await seeded(site, 3, 1)
    fates = await site.store.settle([failed(tasks[0]), failed(tasks[1], data=data), failed(tasks[2])])
    assert verdicts(fates) == [("settled", "")] * 3
    assert [(await site.gateway.balance(user))[0] for user in owners] == [1010] * 3


async def test_odd_texts_hold_no_money_back(site):
    _, _, (task,) = await seeded(site, 1, 1)
    assert verdicts(await site.store.settle([failed(task, "bad \x00 \udc00 text", evidence="\x00")])) == [
        ("settled", "")
    ]
    assert (await site.gateway.row("tasks", task.pk))["fail_reason"] == "bad   text"


@pytest.mark.parametrize("saved", ['{"key": "\\u0000", "token_id": 1}', '{"key": "\\ud800"}', '{"token_id": "many"}'])
async def test_private_data_that_cannot_be_read_is_for_a_person_and_its_neighbours_settle(
    make_database, open_database, saved
):
    site = await open_site(make_database, open_database, "main")
    try:
        owners, channel, tasks = await seeded(site, 3, 1)
        await site.gateway.connection.execute("UPDATE tasks SET private_data = $2 WHERE id = $1", tasks[1].pk, saved)
        assert len(await site.tasks(channel)) == 3
        fates = await site.store.settle([failed(task) for task in tasks])
        assert verdicts(fates) == [("settled", ""), ("quarantined", "odd_data"), ("settled", "")]
        assert (await site.gateway.balance(owners[1]))[0] == 1000
    finally:
        await site.gateway.connection.close()


async def test_row_that_refuses_to_change_rolls_its_task_back_alone(site):
    owners, _, tasks = await seeded(site, 3, 1)
    await site.gateway.connection.execute(
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$"
    )
    await site.gateway.connection.execute(
        f"CREATE TRIGGER keep BEFORE UPDATE ON users FOR EACH ROW WHEN (OLD.id = {owners[1]}) EXECUTE FUNCTION keep()"
    )
    fates = await site.store.settle([failed(task) for task in tasks])
    assert verdicts(fates) == [("settled", ""), ("quarantined", "no_user_row"), ("settled", "")]
    assert [entry["task_pk"] for entry in await site.gateway.ledger()] == [tasks[0].pk, tasks[2].pk]
    assert (await site.gateway.row("tasks", tasks[1].pk))["status"] == site.gateway.word("IN_PROGRESS")


TRIGGERS = {
    "42501": "RAISE insufficient_privilege USING MESSAGE = 'permission denied for table audit'",
    "42883": "PERFORM no_such_function(1)",
    "42P01": "INSERT INTO no_such_table VALUES (1)",
    "42703": "PERFORM no_such_column FROM users",
    "P0001": "RAISE EXCEPTION 'not on a Sunday'",
}


@pytest.mark.parametrize("table", ["tasks", "users"])
@pytest.mark.parametrize("sqlstate", TRIGGERS)
async def test_trigger_that_refuses_a_row_holds_up_that_task_alone(site, sqlstate, table):
    owners, channel, tasks = await seeded(site, 4, 1)
    refused = owners[1] if table == "users" else tasks[1].pk
    await site.gateway.connection.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN {TRIGGERS[sqlstate]}; RETURN NEW; END $$"
    )
    await site.gateway.connection.execute(
        f"CREATE TRIGGER refuse BEFORE UPDATE ON {table} FOR EACH ROW WHEN (OLD.id = {refused})"
        " EXECUTE FUNCTION refuse()"
    )
    if table == "tasks":
        change = Advance(State.IN_PROGRESS, "55%", b"{}")
        assert await site.store.advance([(task, change) for task in tasks]) == 3
    # Alone in a batch it is no other matter.
    (alone,) = await site.store.settle([failed(tasks[1])])
    fates = await site.store.settle([failed(task) for task in tasks])
    for fate in (alone, fates[1]):
        assert (fate.verdict.value, fate.reason, sqlstate in fate.detail) == ("locked", "refused", True)
    assert verdicts(fates) == [("settled", ""), ("locked", "refused"), ("settled", ""), ("settled", "")]
    await site.gateway.connection.execute(f"DROP TRIGGER refuse ON {table}")
    assert verdicts(await site.store.settle([failed(task) for task in await site.tasks(channel)])) == [("settled", "")]
    assert [(await site.gateway.balance(user))[0] for user in owners] == [1010] * 4


async def test_rights_that_our_own_role_lacks_are_said_with_the_remedy_and_lose_nothing(site, open_database):
    owners, channel, tasks = await seeded(site, 3, 1)
    role = f"poor_{os.getpid()}_{site.gateway.profile}"
    owner = site.gateway.connection
    await owner.execute(f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA poller TO {role}")
    for kind in ("TABLES", "SEQUENCES"):
        await owner.execute(f"GRANT ALL ON ALL {kind} IN SCHEMA poller, public TO {role}")
    await owner.execute(f"REVOKE UPDATE ON users FROM {role}")
    try:
        database = await open_database(site.gateway.dsn.replace("postgres@", f"{role}@"))
        poor = await open_store(database, site.gateway)
        with pytest.raises(
            NotPermitted, match=r"denied for table users.*what deploy/postgres/grants-<profile>\.sql lists"
        ):
            await poor.settle([failed(task) for task in tasks])
        assert len(await site.tasks(channel)) == 3
        await owner.execute(f"GRANT UPDATE ON users TO {role}")
        assert verdicts(await poor.settle([failed(task) for task in tasks])) == [("settled", "")] * 3
        assert [(await site.gateway.balance(user))[0] for user in owners] == [1010] * 3
        await database.close()
    finally:
        await owner.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


# -- locks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["tasks", "users"])
@pytest.mark.usefixtures("hasty")
async def test_task_behind_a_held_row_waits_for_the_next_pass_and_its_neighbours_settle(site, table):
    owners, _, tasks = await seeded(site, 7, 1)
    held = tasks[4].pk if table == "tasks" else owners[4]
    with anyio.fail_after(LIMIT_S):
        rival = await asyncpg.connect(site.gateway.dsn)
        async with rival.transaction():
            await rival.fetch(f"SELECT id FROM {table} WHERE id = $1 FOR UPDATE", held)
            fates = await site.store.settle([failed(task) for task in tasks])
        await rival.close()
        wanted = [("settled", "")] * 7
        wanted[4] = ("locked", "locked")
        assert verdicts(fates) == wanted
        assert verdicts(await site.store.settle([failed(tasks[4])])) == [("settled", "")]
    assert [(await site.gateway.balance(user))[0] for user in owners] == [1010] * 7


@pytest.mark.usefixtures("hasty")
async def test_settlement_that_moves_nothing_waits_for_no_user_row(site):
    owners, _, (task,) = await seeded(site, 1, 1)
    rival = await asyncpg.connect(site.gateway.dsn)
    async with rival.transaction():
        await rival.fetch("SELECT id FROM users WHERE id = $1 FOR UPDATE", owners[0])
        assert verdicts(await site.store.settle([succeeded(task, None)])) == [("settled", "")]
    await rival.close()


@pytest.mark.usefixtures("hasty")
async def test_batch_that_is_held_as_a_whole_is_given_up_after_the_lock_budget(site, monkeypatch):
    monkeypatch.setattr(settle, "_LOCK_BUDGET_S", 0.0)
    owners, _, tasks = await seeded(site, 1, 20)
    rival = await asyncpg.connect(site.gateway.dsn)
    async with rival.transaction():
        await rival.fetch("SELECT id FROM users WHERE id = $1 FOR UPDATE", owners[0])
        fates = await site.store.settle([failed(task) for task in tasks])
    await rival.close()
    assert verdicts(fates) == [("locked", "locked")] * 20
    assert await site.gateway.ledger() == []


async def test_deadlock_with_the_gateway_ends_with_everything_paid(site):
    owners, _, (task,) = await seeded(site, 1, 1)
    rival = await asyncpg.connect(site.gateway.dsn)
    await rival.execute("SET deadlock_timeout = '50ms'")

    async def cross(started: anyio.Event) -> None:
        try:
            async with rival.transaction():
                await rival.execute("UPDATE users SET quota = quota + 1 WHERE id = $1", owners[0])
                started.set()
                await eventually(lambda: site.gateway.rows("SELECT 1 FROM pg_locks WHERE NOT granted"))
                await rival.execute("UPDATE tasks SET progress = '40%' WHERE id = $1", task.pk)
        except asyncpg.DeadlockDetectedError:
            pass

    with anyio.fail_after(LIMIT_S):
        started = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(cross, started)
            await started.wait()
            fates = await site.store.settle([failed(task)])
    await rival.close()
    assert verdicts(fates) == [("settled", "")]
    assert (await site.gateway.balance(owners[0]))[0] in (1010, 1011)


async def test_serialization_failures_are_repeated(site, open_database):
    name = site.gateway.dsn.split("/")[3].partition("?")[0]
    await site.gateway.connection.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    owners, _, tasks = await seeded(site, 1, 20)
    stores = [await open_store(await open_database(site.gateway.dsn), site.gateway) for _ in range(3)]

    async def settle_some(store, some) -> None:
        left = list(some)
        while left:
            fates = await store.settle([failed(task) for task in left])
            left = [fate.task for fate in fates if fate.verdict is Verdict.LOCKED]

    with anyio.fail_after(LIMIT_S):
        async with anyio.create_task_group() as group:
            for place, store in enumerate(stores):
                group.start_soon(settle_some, store, tasks[place::3])
    assert (await site.gateway.balance(owners[0]))[0] == 1200


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_a_serialization_failure_repeats_the_whole_transaction_and_nothing_else(site, open_database, level):
    name = site.gateway.dsn.split("/")[3].partition("?")[0]
    owners, _, tasks = await seeded(site, 2, 2)
    await site.gateway.connection.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = '{level}'")
    store = await open_store(await open_database(site.gateway.dsn), site.gateway)
    rival = await asyncpg.connect(site.gateway.dsn)
    reached: Counter[str] = Counter()
    fates = []

    async def settle_all() -> None:
        fates.extend(await store.settle([failed(task) for task in tasks]))

    crashpoints.watch(lambda label: reached.update([label]))
    try:
        with anyio.fail_after(LIMIT_S):
            async with anyio.create_task_group() as group, rival.transaction():
                await rival.execute("UPDATE users SET quota = quota + 1 WHERE id = $1", owners[0])
                group.start_soon(settle_all)
                await eventually(lambda: site.gateway.rows("SELECT 1 FROM pg_locks WHERE NOT granted"))
    finally:
        crashpoints.watch(None)
        await rival.close()
    assert verdicts(fates) == [("settled", "")] * 4
    # Not in halves, and without giving up what else was to be written.
    assert (reached["settle.begun"], reached["settle.committed"]) == (2, 1)
    assert all([json.loads((await site.gateway.row("tasks", task.pk))["data"]) for task in tasks])
    assert [(await site.gateway.balance(user))[0] for user in owners] == [1021, 1020]


async def test_a_task_whose_serialization_failures_do_not_end_waits_alone(site):
    owners, _, tasks = await seeded(site, 3, 1)
    await site.gateway.connection.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE serialization_failure; RETURN NULL; END $$"
    )
    # At COMMIT, as a serializable transaction may be told.
    await site.gateway.connection.execute(
        "CREATE CONSTRAINT TRIGGER refuse AFTER UPDATE ON tasks DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
        f" WHEN (OLD.id = {tasks[1].pk}) EXECUTE FUNCTION refuse()"
    )
    fates = await site.store.settle([failed(task) for task in tasks])
    assert verdicts(fates) == [("settled", ""), ("locked", "retry_tx"), ("settled", "")]
    await site.gateway.connection.execute("DROP TRIGGER refuse ON tasks")
    assert verdicts(await site.store.settle([failed(tasks[1])])) == [("settled", "")]
    assert [(await site.gateway.balance(user))[0] for user in owners] == [1010] * 3


ANOTHER_TYPE = """
    SELECT format('ALTER TABLE %I ALTER %I TYPE %s', table_name, column_name, CASE udt_name
        WHEN 'int4' THEN 'bigint' WHEN 'int8' THEN 'integer' WHEN 'text' THEN 'varchar' ELSE 'text' END)
    FROM information_schema.columns
    WHERE table_schema = 'public' AND table_name = ANY('{tasks,users,tokens,channels}')
        AND udt_name = ANY('{int4,int8,text,varchar}')
"""


async def test_no_plan_of_ours_outlives_a_table_whose_columns_all_change_their_type(site, open_database):
    # One connection, so that what is prepared before the change is used after it.
    store = await open_store(await open_database(site.gateway.dsn, max_open=1), site.gateway)
    owners, channel, tasks = await seeded(site, 6, 1)
    reached: Counter[str] = Counter()
    crashpoints.watch(lambda label: reached.update([label]))
    try:
        for place, task in enumerate(tasks):
            assert len((await store.page(channel, 0, 100)).tasks) == len(tasks) - place
            assert verdicts(await store.settle([failed(task)])) == [("settled", "")]
            for change in await site.gateway.connection.fetch(ANOTHER_TYPE):
                await site.gateway.connection.execute(change[0])
            for change in ("ADD spare text", "DROP spare"):
                await site.gateway.connection.execute(f"ALTER TABLE tasks {change}")
    finally:
        crashpoints.watch(None)
    # None was repeated.
    assert reached["settle.begun"] == len(tasks)
    assert [(await site.gateway.balance(user))[0] for user in owners] == [1010] * 6


# -- rivals ----------------------------------------------------------------------------------------------------------


async def test_two_settlers_on_overlapping_batches_pay_every_task_once(site, open_database):
    owners, _, tasks = await seeded(site, 4, 30)
    start = {user: await site.gateway.balance(user) for user in owners}
    stores = [await open_store(await open_database(site.gateway.dsn), site.gateway) for _ in range(2)]
    won: list[int] = []

    async def settle_all(store, seed: int) -> None:
        chance = random.Random(seed)
        pending = tasks[:]
        chance.shuffle(pending)
        while pending:
            some, pending = pending[:25], pending[25:]
            fates = await store.settle([failed(task) for task in some])
            won.extend(fate.task.pk for fate in fates if fate.verdict is Verdict.SETTLED)
            pending += [fate.task for fate in fates if fate.verdict is Verdict.LOCKED]

    with anyio.fail_after(LIMIT_S):
        async with anyio.create_task_group() as group:
            for seed, store in enumerate(stores):
                group.start_soon(settle_all, store, seed)
    assert sorted(won) == [task.pk for task in tasks]
    assert [(await site.gateway.balance(user))[0] for user in owners] == [1300] * 4
    await site.expect_money(start)


async def test_gateway_that_moves_the_same_balances_meanwhile_loses_nothing(site):
    owners, _, tasks = await seeded(site, 2, 30)
    flushed = 0

    async def flush(stop: anyio.Event) -> None:
        nonlocal flushed
        rival = await asyncpg.connect(site.gateway.dsn)
        while not stop.is_set():
            await rival.execute("UPDATE users SET quota = quota - 1 WHERE id = $1", owners[0])
            flushed += 1
        await rival.close()

    with anyio.fail_after(LIMIT_S):
        async with anyio.create_task_group() as group:
            stop = anyio.Event()
            group.start_soon(flush, stop)
            for start in range(0, 60, 10):
                fates = await site.store.settle([failed(task) for task in tasks[start : start + 10]])
                assert verdicts(fates) == [("settled", "")] * 10
            stop.set()
    assert flushed
    assert (await site.gateway.balance(owners[0]))[0] == 1300 - flushed


# -- dying connections -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
async def test_killed_backends_neither_lose_nor_double_any_refund(site, seed):
    chance = random.Random(seed)
    owners, channel, tasks = await seeded(site, 3, 20)
    start = {user: await site.gateway.balance(user) for user in owners}
    killed = 0

    async def kill(stop: anyio.Event) -> None:
        nonlocal killed
        while not stop.is_set():
            await anyio.sleep(chance.random() * 0.03)
            killed += await site.gateway.connection.fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name LIKE 'poller%'"
            )

    with anyio.fail_after(LIMIT_S):
        async with anyio.create_task_group() as group:
            stop = anyio.Event()
            group.start_soon(kill, stop)
            while killed < KILLS:
                with contextlib.suppress(DatabaseAway):
                    await site.store.settle([failed(task) for task in chance.sample(tasks, 4)])
            stop.set()
        # Connections that were killed while nobody used them may still be in the pool.
        is_quiet = False
        while not is_quiet:
            with contextlib.suppress(DatabaseAway):
                await site.store.settle([failed(task) for task in await site.tasks(channel)])
                is_quiet = not await site.tasks(channel)
    assert await site.tasks(channel) == []
    assert len(await site.gateway.ledger()) == len(tasks)
    assert [(await site.gateway.balance(user))[0] for user in owners] == [1200] * 3
    await site.expect_money(start)


@pytest.mark.parametrize("lost", ["the COMMIT", "the answer to it"])
async def test_commit_of_unknown_outcome_settles_once_and_is_told_once(
    make_database, open_database, make_proxy, profile_name, lost
):
    with anyio.fail_after(LIMIT_S):
        site = await open_site(make_database, open_database, profile_name)
        proxy, dsn = await make_proxy(site.gateway.dsn)
        store = await open_store(await open_database(dsn), site.gateway)
        owners, _, tasks = await seeded(site, 2, 2)
        cuts = 0

        def cut(data: bytes) -> bytes | None:
            nonlocal cuts
            if b"COMMIT" not in data or cuts:
                return data
            cuts += 1
            if lost == "the COMMIT":
                return None
            proxy.to_client = answer_lost
            return data

        def answer_lost(_data: bytes) -> None:
            # The server has answered, so it has committed.
            proxy.to_client = bytes

        proxy.to_server = cut
        fates = await store.settle([failed(task) for task in tasks])
        assert cuts == 1
        assert verdicts(fates) == [("settled", "")] * 4
        assert [fate.refunded for fate in fates] == [10] * 4
        assert [(await site.gateway.balance(user))[0] for user in owners] == [1020] * 2
        await site.gateway.connection.close()


async def test_database_that_stays_away_leaves_everything_as_it_was(
    make_database, open_database, make_proxy, profile_name
):
    with anyio.fail_after(LIMIT_S):
        site = await open_site(make_database, open_database, profile_name)
        proxy, dsn = await make_proxy(site.gateway.dsn)
        store = await open_store(await open_database(dsn), site.gateway)
        owners, channel, (task,) = await seeded(site, 1, 1)
        proxy.to_server = lambda _data: None
        with pytest.raises(DatabaseAway):
            await store.settle([failed(task)])
        assert await site.gateway.ledger() == []
        proxy.to_server = bytes
        assert verdicts(await store.settle([failed(task)])) == [("settled", "")]
        assert (await site.gateway.balance(owners[0]))[0] == 1010
        assert await site.tasks(channel) == []
        await site.gateway.connection.close()


async def test_cancelled_settlement_is_committed_whole_or_not_at_all(site):
    owners, channel, tasks = await seeded(site, 2, 20)
    chance = random.Random(7)
    with anyio.fail_after(LIMIT_S):
        while await site.tasks(channel):
            with anyio.move_on_after(chance.random() * 0.01):
                await site.store.settle([failed(task) for task in chance.sample(tasks, 6)])
    assert [(await site.gateway.balance(user))[0] for user in owners] == [1200] * 2
    assert len(await site.gateway.ledger()) == 40
