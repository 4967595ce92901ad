"""The pool under faults: every error translated, every wait bounded, no connection lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anyio
import asyncpg
import pytest

from poller.core.model import Secret
from poller.errors import DatabaseAway, Misconfigured, NotPermitted
from poller.postgres.faults import CommitUnknown, Fault, StatementFailed
from poller.postgres.pool import Database, open_pool
from poller.postgres.statements import Statement
from tests.postgres.eventually import eventually
from tests.postgres.proxy import as_is, other_pid, swallow

NOTE = Statement("note", "INSERT INTO poller.watch (task_pk, channel_id) VALUES ($1::bigint, 1)")
COUNT = Statement("count", "SELECT count(*) FROM poller.watch")
PID = Statement("pid", "SELECT pg_backend_pid()")
SLEEP = Statement("sleep", "SELECT pg_sleep($1::float8)")


async def count(dsn: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(COUNT.text)
    finally:
        await connection.close()


async def note_one(database: Database, *, then: Callable[[], None]) -> None:
    """A transaction that notes one task; *then* is called before it commits."""
    async with database.transaction() as transaction:
        await transaction.fetch(NOTE, 1)
        then()


def _raise(error: Exception) -> None:
    raise error


@pytest.fixture
async def dsn(make_database):
    return await make_database("documented")


async def test_a_block_that_ends_well_is_committed(dsn, open_database):
    with anyio.fail_after(30):
        database = await open_database(dsn)
        async with database.transaction() as transaction:
            await transaction.fetch(NOTE, 1)
            await transaction.fetch(NOTE, 2)
        assert await count(dsn) == 2


async def test_an_exception_in_the_block_rolls_back_passes_unchanged_and_costs_no_connection(dsn, open_database):
    with anyio.fail_after(30):
        database = await open_database(dsn, max_open=1)
        (before,) = await database.fetch(PID)
        for mistake in (ValueError("ours"), OSError("ours too"), RuntimeError("and ours")):
            with pytest.raises(type(mistake)) as caught:
                await note_one(database, then=partial(_raise, mistake))
            assert caught.value is mistake
        assert await database.fetch(PID) == [before]
        assert await count(dsn) == 0


async def test_a_cancelled_block_commits_nothing_and_frees_its_connection(dsn, open_database):
    with anyio.fail_after(30):
        database = await open_database(dsn, max_open=1)
        for _ in range(20):
            with anyio.move_on_after(0.02) as scope:
                async with database.transaction() as transaction:
                    await transaction.fetch(NOTE, 1)
                    await transaction.fetch(SLEEP, 20.0)
            assert scope.cancelled_caught
        assert await database.fetch(COUNT) == [(0,)]
        assert database.sizes()["in_use"] == 0


async def test_a_lost_answer_to_commit_is_an_unknown_outcome_that_was_committed(dsn, open_database, make_proxy):
    proxy, through = await make_proxy(dsn)

    def cut_the_answer(data: bytes) -> bytes | None:
        return None if b"COMMIT\0" in data else data

    with anyio.fail_after(30):
        database = await open_database(through)
        with pytest.raises(CommitUnknown):
            await note_one(database, then=partial(setattr, proxy, "to_client", cut_the_answer))
        assert await count(dsn) == 1
        proxy.to_client = as_is
        assert await database.fetch(COUNT) == [(1,)]


async def test_a_lost_commit_is_an_unknown_outcome_that_was_not_committed(dsn, open_database, make_proxy):
    proxy, through = await make_proxy(dsn)

    def cut_the_request(data: bytes) -> bytes | None:
        return None if b"COMMIT;" in data else data

    with anyio.fail_after(30):
        database = await open_database(through)
        with pytest.raises(CommitUnknown):
            await note_one(database, then=partial(setattr, proxy, "to_server", cut_the_request))
        assert await count(dsn) == 0


async def test_a_commit_without_answer_ends_at_its_deadline_as_unknown(dsn, open_database, make_proxy):
    proxy, through = await make_proxy(dsn)
    with anyio.fail_after(30):
        database = await open_database(through, command_timeout_s=0.3)
        with anyio.fail_after(5), pytest.raises(CommitUnknown):
            await note_one(database, then=partial(setattr, proxy, "to_client", swallow))
        assert await count(dsn) == 1


async def test_a_commit_that_the_server_refuses_is_known_to_have_failed(dsn, open_database):
    with anyio.fail_after(30):
        database = await open_database(dsn)
        async with database.transaction() as transaction:
            await transaction.run("ddl", "CREATE TABLE late (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
        with pytest.raises(StatementFailed) as caught:
            async with database.transaction() as transaction:
                await transaction.run("twice", "INSERT INTO late VALUES (1), (1)")
        assert caught.value.fault is Fault.POISON
        assert caught.value.sqlstate == "23505"


@pytest.mark.parametrize("state", ["idle in transaction", "active"])
async def test_a_killed_backend_means_that_nothing_was_committed(dsn, open_database, state):
    killer = await asyncpg.connect(dsn)

    async def kill(pid: int) -> None:
        async def is_there() -> bool:
            return await killer.fetchval("SELECT state = $2 FROM pg_stat_activity WHERE pid = $1", pid, state)

        async def is_gone() -> bool:
            return not await killer.fetchval("SELECT true FROM pg_stat_activity WHERE pid = $1", pid)

        await eventually(is_there)
        await killer.execute("SELECT pg_terminate_backend($1)", pid)
        await eventually(is_gone)

    async def work(database: Database) -> None:
        async with database.transaction() as transaction:
            await transaction.fetch(NOTE, 1)
            ((pid,),) = await transaction.fetch(PID)
            if state == "active":
                async with asyncio.TaskGroup() as group:
                    group.create_task(kill(pid))
                    with pytest.raises(DatabaseAway) as caught:
                        await transaction.fetch(SLEEP, 20.0)
                raise caught.value
            await kill(pid)

    with anyio.fail_after(30):
        database = await open_database(dsn)
        with pytest.raises(DatabaseAway) as caught:
            await work(database)
        if state == "active":
            # Between statements the death may show no earlier than at COMMIT; then to be unsure is right.
            assert not isinstance(caught.value, CommitUnknown)
        assert await database.fetch(COUNT) == [(0,)]
        await killer.close()


async def test_a_black_hole_costs_one_deadline_and_heals_without_a_restart(dsn, open_database, make_proxy):
    proxy, through = await make_proxy(dsn)
    with anyio.fail_after(30):
        database = await open_database(through, acquire_timeout_s=0.5, connect_timeout_s=0.5, command_timeout_s=0.5)
        await database.fetch(COUNT)
        proxy.to_client = swallow
        with anyio.fail_after(3), pytest.raises(DatabaseAway) as caught:
            await database.fetch(COUNT, timeout_s=0.2)
        assert caught.value.reason == "timeout"
        with anyio.fail_after(3), pytest.raises(DatabaseAway) as caught:
            await database.fetch(COUNT, timeout_s=0.2)
        assert caught.value.reason == "connect_timeout"
        assert str(caught.value).endswith(f" at 127.0.0.1:{proxy.port}")
        proxy.to_client = as_is
        assert await database.fetch(COUNT) == [(0,)]
        await database.close()
        assert not [task for task in asyncio.all_tasks() if "asyncpg" in repr(task.get_coro())]


async def test_a_cancelled_wait_in_a_black_hole_ends_at_once(dsn, open_database, make_proxy):
    proxy, through = await make_proxy(dsn)
    with anyio.fail_after(30):
        database = await open_database(through)
        proxy.to_client = swallow
        with anyio.fail_after(3):
            with anyio.move_on_after(0.1):
                async with database.transaction() as transaction:
                    await transaction.fetch(COUNT)
            with anyio.move_on_after(0.1):
                await database.fetch(COUNT)
        proxy.to_client = as_is
        assert await database.fetch(COUNT) == [(0,)]


async def test_reads_never_take_the_connection_that_is_kept_for_transactions(dsn, open_database):
    with anyio.fail_after(30):
        database = await open_database(dsn, max_open=2, acquire_timeout_s=0.3)
        async with anyio.create_task_group() as group:
            group.start_soon(database.fetch, SLEEP, 20.0)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(DatabaseAway) as caught:
                await database.fetch(COUNT)
            assert caught.value.reason == "pool_timeout"
            async with database.transaction() as transaction:
                await transaction.fetch(NOTE, 1)
            group.cancel_scope.cancel()
        assert await database.fetch(COUNT) == [(1,)]


async def test_a_pool_that_is_used_up_says_so_in_time(dsn, open_database):
    with anyio.fail_after(30):
        database = await open_database(dsn, max_open=1, acquire_timeout_s=0.2)
        async with database.transaction():
            with pytest.raises(DatabaseAway) as caught:
                await database.fetch(COUNT)
        assert caught.value.reason == "pool_timeout"


async def test_a_row_held_by_somebody_is_locked_and_not_waited_for_longer_than_asked(dsn, open_database):
    with anyio.fail_after(30):
        database = await open_database(dsn)
        await database.fetch(NOTE, 1)
        hold = Statement("hold", "SELECT FROM poller.watch FOR UPDATE")
        async with database.transaction() as holder:
            await holder.fetch(hold)
            with pytest.raises(StatementFailed) as caught:
                async with database.transaction(lock_timeout_s=0.1) as waiter:
                    await waiter.fetch(hold)
        assert (caught.value.fault, caught.value.sqlstate) == (Fault.LOCKED, "55P03")


async def test_a_deadlock_asks_for_the_whole_transaction_again(dsn, open_database):
    lock = Statement("lock", "SELECT FROM poller.watch WHERE task_pk = $1::bigint FOR UPDATE")
    with anyio.fail_after(30):
        database = await open_database(dsn)
        for pk in (1, 2):
            await database.fetch(NOTE, pk)
        faults: list[Fault] = []
        both_hold_one = asyncio.Barrier(2)

        async def cross(first: int, second: int) -> None:
            try:
                async with database.transaction(lock_timeout_s=20) as transaction:
                    await transaction.fetch(lock, first)
                    await both_hold_one.wait()
                    await transaction.fetch(lock, second)
            except StatementFailed as error:
                faults.append(error.fault)

        async with anyio.create_task_group() as group:
            group.start_soon(cross, 1, 2)
            group.start_soon(cross, 2, 1)
        assert faults == [Fault.RETRY_TX]


async def test_a_plan_that_outlived_its_table_asks_for_the_whole_transaction_again(dsn, open_database):
    everything = Statement("everything", "SELECT * FROM poller.watch")
    with anyio.fail_after(30):
        database = await open_database(dsn, max_open=1)
        owner = await asyncpg.connect(dsn)

        async def note_and_read() -> None:
            async with database.transaction() as transaction:
                await transaction.fetch(NOTE, 1)
                await transaction.fetch(everything)

        async with database.transaction() as transaction:
            await transaction.fetch(everything)
        await owner.execute("ALTER TABLE poller.watch ADD COLUMN spare text")
        with pytest.raises(StatementFailed) as caught:
            await note_and_read()
        assert caught.value.fault is Fault.RETRY_TX
        assert await count(dsn) == 0
        await note_and_read()
        assert await count(dsn) == 1
        await owner.close()


async def test_bad_values_are_poison_and_never_appear_in_the_message(dsn, open_database):
    with anyio.fail_after(30):
        database = await open_database(dsn)
        await database.fetch(NOTE, 4242)
        cases = [
            (NOTE, 4242),
            (NOTE, 1 << 70),
            (Statement("text", "SELECT $1::text"), "canary\0"),
            (Statement("cast", "SELECT $1::text::bigint"), "canary"),
            (Statement("json", "SELECT $1::text::jsonb"), '{"canary": "\\u0000"}'),
        ]
        for statement, value in cases:
            with pytest.raises(StatementFailed) as caught:
                await database.fetch(statement, value)
            assert caught.value.fault is Fault.POISON
            assert "canary" not in str(caught.value)
            assert "4242" not in str(caught.value)
        assert await database.fetch(COUNT) == [(1,)]


async def test_a_connection_is_not_used_beyond_its_lifetime(dsn, open_database):
    with anyio.fail_after(30):
        database = await open_database(dsn, max_open=1, lifetime_s=0.000001)
        pids = [await database.fetch(PID) for _ in range(3)]
        assert len({str(pid) for pid in pids}) == 3


async def test_a_read_only_server_is_no_server_to_settle_on(dsn, open_database):
    name = dsn.split("@/")[1].split("?")[0]
    with anyio.fail_after(30):
        database = await open_database(dsn)
        await database.fetch(Statement("alter", f"ALTER DATABASE {name} SET default_transaction_read_only = on"))
        with pytest.raises(DatabaseAway) as caught:
            await open_database(dsn)
        assert caught.value.reason == "read_only"


async def test_a_primary_that_became_read_only_is_left_for_new_connections(dsn, open_database):
    with anyio.fail_after(30):
        database = await open_database(dsn, max_open=1)
        (before,) = await database.fetch(PID)

        async def write_on_a_standby() -> None:
            async with database.transaction() as transaction:
                await transaction.run("read_only", "SET TRANSACTION READ ONLY")
                await transaction.fetch(NOTE, 1)

        with pytest.raises(DatabaseAway) as caught:
            await write_on_a_standby()
        assert caught.value.reason == "read_only"
        assert await database.fetch(PID) != [before]


async def test_who_is_refused_at_the_start_is_told_what_to_check(dsn, pg_server):
    options = {"max_open": 2, "max_idle": 1, "lifetime_s": 0.0, "application_name": "poller/test"}
    with anyio.fail_after(30):
        with pytest.raises(NotPermitted, match="user and password"):
            await open_pool(Secret(dsn.replace("postgres@", "nobody-here:canary@")), **options)
        with pytest.raises(Misconfigured, match="no such database"):
            await open_pool(Secret(pg_server.dsn("not_there")), **options)
        with pytest.raises(DatabaseAway, match="lost"):
            await open_pool(Secret("postgres://u:canary@127.0.0.1:1/x"), **options)
        with pytest.raises(DatabaseAway, match="lost"):
            await open_pool(Secret(f"postgres:///x?host={Path('/nowhere')}"), **options)


async def test_a_session_carries_its_name_its_limits_and_any_time_zone(dsn, open_database):
    setting = Statement("setting", "SELECT current_setting($1::text)")
    with anyio.fail_after(30):
        database = await open_database(
            f"{dsn}&TimeZone=Asia/Shanghai&lock_timeout=7s&connect_timeout=3", application_name="poller/r1"
        )
        assert await database.fetch(setting, "application_name") == [("poller/r1",)]
        assert await database.fetch(setting, "TimeZone") == [("Asia/Shanghai",)]
        assert await database.fetch(setting, "lock_timeout") == [("7s",)]
        assert await database.fetch(setting, "statement_timeout") == [("30s",)]
        assert await database.fetch(setting, "idle_in_transaction_session_timeout") == [("30s",)]


async def test_a_transaction_that_stands_idle_is_ended_by_the_server_and_nothing_of_it_stays(dsn, open_database):
    with anyio.fail_after(30):
        database = await open_database(f"{dsn}&idle_in_transaction_session_timeout=100ms")
        watcher = await asyncpg.connect(dsn)

        async def stand_idle() -> None:
            async with database.transaction() as transaction:
                await transaction.fetch(NOTE, 1)
                ((pid,),) = await transaction.fetch(PID)

                async def is_gone() -> bool:
                    return not await watcher.fetchval("SELECT true FROM pg_stat_activity WHERE pid = $1", pid)

                await eventually(is_gone)
                await transaction.fetch(COUNT)

        with pytest.raises(DatabaseAway):
            await stand_idle()
        assert await database.fetch(COUNT) == [(0,)]
        await watcher.close()


async def test_a_pooler_is_noticed_and_each_statement_stays_on_one_server(dsn, open_database, make_proxy):
    proxy, through = await make_proxy(dsn)
    proxy.to_client = other_pid
    sent: list[bytes] = []

    def note(data: bytes) -> bytes:
        sent.append(data)
        return data

    with anyio.fail_after(30):
        database = await open_database(through)
        assert database.is_pooled
        assert not (await open_database(dsn)).is_pooled
        proxy.to_server = note
        assert await database.fetch(COUNT) == [(0,)]
        async with database.transaction(lock_timeout_s=1.5) as transaction:
            assert await transaction.fetch(Statement("limit", "SHOW lock_timeout")) == [("1500ms",)]
        traffic = b"".join(sent)
        assert traffic.index(b"BEGIN;") < traffic.index(b"count(*)") < traffic.index(b"COMMIT;")
        assert b"__asyncpg_" not in traffic
