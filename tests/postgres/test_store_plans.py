"""How the statements find their rows, and how many of them a settlement takes: counted by the server itself."""

from __future__ import annotations

import anyio
import asyncpg
import pytest

from poller.core.model import Advance, State, Verdict
from poller.postgres.statements import load
from tests.postgres.eventually import eventually
from tests.postgres.gateway import MODEL, Gateway, Site, failed, open_store, succeeded

LIMIT_S = 60
ROWS = 50_000
TABLES = ("tasks", "users", "ledger")
"""The large ones; reading through 4 channels costs less than their index."""


async def fill(gateway: Gateway) -> None:
    """50 000 tasks of 4 channels and 5 000 users, one in five still active."""
    times = "" if gateway.profile == "documented" else ", submit_time, start_time, finish_time, created_at"
    values = "" if gateway.profile == "documented" else ", 1700000000, 0, 0, 1700000000"
    for _ in range(4):
        await gateway.channel()
    names = "username, quota" if gateway.profile == "documented" else "username, quota, access_token, aff_code"
    codes = "" if gateway.profile == "documented" else ", lpad(n::text, 32, '0'), n::text"
    await gateway.connection.execute(
        f"INSERT INTO users ({names}) SELECT 'u' || n, 1000{codes} FROM generate_series(1, 5000) AS n"
    )
    await gateway.connection.execute(
        f"INSERT INTO tasks (task_id, platform, user_id, channel_id, quota, action, status, progress{times})"
        f" SELECT 'job-' || n, 'custompass', 1 + n % 5000, 1 + n % 4, 10, $1,"
        f" CASE WHEN n > $2 * 4 / 5 THEN $3 ELSE $4 END, '30%'{values} FROM generate_series(1, $2::int) AS n",
        MODEL,
        ROWS,
        gateway.word("IN_PROGRESS"),
        gateway.word("SUCCESS"),
    )
    await gateway.connection.execute("VACUUM ANALYZE")


async def scans(site: Site) -> dict[str, int]:
    """Sequential scans so far, by table; the store's connections must be closed, so that they have reported."""

    async def is_alone() -> bool:
        return not await site.gateway.rows(
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'poller%'"
        )

    await eventually(is_alone)
    await site.gateway.connection.execute("SELECT pg_stat_clear_snapshot()")
    rows = await site.gateway.rows("SELECT relname, seq_scan FROM pg_stat_user_tables WHERE relname = ANY($1)", TABLES)
    return {row["relname"]: row["seq_scan"] for row in rows}


@pytest.mark.parametrize("size", [50, 500])
async def test_no_statement_reads_through_a_large_table(make_database, open_database, profile_name, size):
    with anyio.fail_after(LIMIT_S):
        dsn = await make_database(profile_name)
        gateway = Gateway(profile_name, dsn, await asyncpg.connect(dsn))
        await fill(gateway)
        database = await open_database(dsn)
        site = Site(gateway, database, await open_store(database, gateway))
        # The gateway's own connection reports its scans with the first look.
        await gateway.connection.execute("SELECT pg_stat_force_next_flush()")
        before = await gateway.rows("SELECT relname, seq_scan FROM pg_stat_user_tables WHERE relname = ANY($1)", TABLES)
        # Often enough to see the plans that PostgreSQL makes for known and for unknown parameters.
        for _ in range(5 if size == 500 else 12):
            page = await site.store.page(3, 0, size)
            assert len(page.tasks) == size
            changed = await site.store.advance([(task, Advance(State.IN_PROGRESS, "41%", b"")) for task in page.tasks])
            assert changed
            half = len(page.tasks) // 2
            fates = await site.store.settle(
                [failed(task) for task in page.tasks[:half]] + [succeeded(task, 3) for task in page.tasks[half:]]
            )
            assert {fate.verdict for fate in fates} == {Verdict.SETTLED}
        await site.store.user_groups([1, 2, 3])
        await database.close()
        after = await scans(site)
        assert {row["relname"]: after[row["relname"]] - row["seq_scan"] for row in before} == dict.fromkeys(
            (row["relname"] for row in before), 0
        )
        # The plan was made while the ledger was empty; it must not read through it as it grows.
        (found,) = await gateway.rows(
            "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'ledger_pkey'"
        )
        assert found["idx_tup_read"] <= len(await gateway.ledger())
        await gateway.connection.close()


async def test_settling_a_batch_takes_four_statements_and_one_commit(
    make_database, open_database, make_proxy, profile_name
):
    with anyio.fail_after(LIMIT_S):
        dsn = await make_database(profile_name)
        gateway = Gateway(profile_name, dsn, await asyncpg.connect(dsn))
        user, channel = await gateway.user(), await gateway.channel()
        for _ in range(21):
            await gateway.task(user, channel)
        proxy, through = await make_proxy(dsn)
        database = await open_database(through)
        site = Site(gateway, database, await open_store(database, gateway))
        tasks = await site.tasks(channel)
        await site.store.settle([failed(tasks[0])])
        seen: list[bytes] = []

        def count(data: bytes) -> bytes:
            seen.append(data)
            return data

        proxy.to_server = count
        await site.store.settle([failed(task) for task in tasks[1:]])
        proxy.to_server = bytes
        sent = b"".join(seen)
        # The extended protocol binds a prepared statement; BEGIN and COMMIT come as simple queries.
        assert (sent.count(b"BEGIN"), sent.count(b"COMMIT")) == (1, 1)
        assert len(seen) == 4
        await gateway.connection.close()


async def test_pass_over_unchanged_tasks_neither_writes_nor_locks_a_row(make_database, open_database, profile_name):
    with anyio.fail_after(LIMIT_S):
        dsn = await make_database(profile_name)
        gateway = Gateway(profile_name, dsn, await asyncpg.connect(dsn))
        user, channel = await gateway.user(), await gateway.channel()
        for _ in range(50):
            await gateway.task(user, channel)
        await gateway.connection.execute("VACUUM ANALYZE")
        database = await open_database(dsn)
        site = Site(gateway, database, await open_store(database, gateway))
        await site.tasks(channel)
        versions = "SELECT ctid, xmin, xmax FROM tasks ORDER BY id"
        before = await gateway.rows(versions)
        tasks = await site.tasks(channel)
        assert await site.store.advance([(task, Advance(task.state, task.progress, b"{}")) for task in tasks]) == 0
        assert await gateway.rows(versions) == before
        await gateway.connection.close()


async def test_the_refunds_of_an_hour_are_read_from_an_index_alone(make_database, open_database):
    with anyio.fail_after(LIMIT_S):
        dsn = await make_database("main")
        connection = await asyncpg.connect(dsn)
        # A busy day: 20 channels, one task in five failed.
        await connection.execute(
            "INSERT INTO poller.ledger (task_pk, task_id, user_id, channel_id, outcome, rule, reserved, charged,"
            " refunded, attempt, settled_at)"
            " SELECT n, 't' || n, 1, n % 20, CASE n % 5 WHEN 0 THEN 'FAILURE' ELSE 'SUCCESS' END,"
            " CASE n % 5 WHEN 0 THEN 'failed_word' ELSE 'success_word' END, 10, CASE n % 5 WHEN 0 THEN 0 ELSE 9 END,"
            " CASE n % 5 WHEN 0 THEN 10 ELSE 1 END, gen_random_uuid(), now() - make_interval(secs => n % 86400)"
            " FROM generate_series(1, 50000) AS n"
        )
        await connection.execute("VACUUM ANALYZE poller.ledger")
        text = load("main").refunded.text
        assert await connection.fetchval(text, 5) == 10 * await connection.fetchval(
            "SELECT count(*) FROM poller.ledger"
            " WHERE channel_id = 5 AND outcome = 'FAILURE' AND settled_at > now() - interval '1 hour'"
        )
        plan = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON, COSTS OFF) {text}", 5)
        await connection.close()
        assert '"Index Only Scan"' in plan
        assert '"ledger_refunds"' in plan
        assert "Rows Removed by Filter" not in plan
