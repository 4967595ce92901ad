"""Few active rows among many finished ones: nothing that runs again and again may read the finished ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anyio
import asyncpg

from poller.postgres.statements import Statement, load

FINISHED = 50_000
FILL = {
    "documented": """
        INSERT INTO tasks (task_id, user_id, action, status, channel_id, created_at, updated_at)
        SELECT 't' || n, n % 100, 'm/submit', CASE n % 5 WHEN 0 THEN 'failed' ELSE 'completed' END, n % 20,
               now() - interval '1 day', now() - make_interval(secs => 86400 - n)
        FROM generate_series(1, $1::int) n""",
    "fork": """
        INSERT INTO tasks (task_id, user_id, action, platform, status, channel_id, created_at, submit_time, finish_time,
                           progress)
        SELECT 't' || n, n % 100, 'm/submit', 'custompass', CASE n % 5 WHEN 0 THEN 'FAILURE' ELSE 'SUCCESS' END, n % 20,
               extract(epoch FROM now()) - 86400, extract(epoch FROM now()) - 86400,
               extract(epoch FROM now()) - 86400 + n, '100%'
        FROM generate_series(1, $1::int) n""",
}
FILL["main"] = FILL["fork"]
REOPEN = {"documented": "processing", "fork": "IN_PROGRESS", "main": "IN_PROGRESS"}


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


async def explained(connection: asyncpg.Connection, statement: Statement, *args: object) -> list[dict[str, Any]]:
    text = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON, COSTS OFF) {statement.text}", *args)
    return list(nodes(json.loads(text)[0]["Plan"]))


async def filled(dsn: str, profile: str) -> asyncpg.Connection:
    """Many finished tasks, and of each channel the two newest open."""
    connection = await asyncpg.connect(dsn)
    await connection.execute(FILL[profile], FINISHED)
    await connection.execute(f"UPDATE tasks SET status = '{REOPEN[profile]}' WHERE id > $1", FINISHED - 40)
    await connection.execute("VACUUM ANALYZE tasks")
    await connection.execute("INSERT INTO poller.lane (channel_id) SELECT generate_series(0, 19)")
    await connection.execute(
        "INSERT INTO poller.watch (task_pk, channel_id, quarantined_at) SELECT n * 100, 1, now()"
        " FROM generate_series(1, 100) AS n"
    )
    return connection


def rows_read(found: list[dict[str, Any]]) -> int:
    """Rows of ``tasks`` that were looked at, those thrown away again included."""
    return sum(
        (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
        for node in found
        if node.get("Relation Name") == "tasks"
    )


OF_A_PASS = ("discover", "queue", "finalized", "quarantined", "page", "last", "tidy_notes", "unassigned")


async def test_no_statement_of_a_pass_reads_the_finished_tasks(make_database, profile_name):
    with anyio.fail_after(120):
        connection = await filled(await make_database(profile_name), profile_name)
        since_s = await connection.fetchval(
            "SELECT extract(epoch FROM now())::float8 - 86400 + $1::int", FINISHED - 100
        )
        args = {"finalized": (since_s,), "page": (3, 0, 50), "last": (3,), "tidy_notes": (0, 100)}
        plans = {name: await explained(connection, load(profile_name)[name], *args.get(name, ())) for name in OF_A_PASS}
        await connection.close()
    for name, found in plans.items():
        on_tasks = [node for node in found if node.get("Relation Name") == "tasks"]
        assert on_tasks, name
        assert not [node for node in on_tasks if node["Node Type"] == "Seq Scan"], name
        # No index leads to all that ended lately: a bounded number of the newest rows is read instead.
        assert rows_read(found) <= (20_200 if name == "finalized" else 200), name
        if name in ("discover", "queue", "page", "last", "unassigned"):
            assert "poller_active_tasks" in {node.get("Index Name") for node in found}, name


async def test_channels_are_found_by_one_probe_each(make_database, profile_name):
    with anyio.fail_after(120):
        dsn = await make_database(profile_name)
        connection = await filled(dsn, profile_name)
        # One channel with very many active tasks costs no more than one with a single one.
        await connection.execute(f"UPDATE tasks SET status = '{REOPEN[profile_name]}' WHERE channel_id = 3")
        await connection.execute("VACUUM ANALYZE tasks")
        statement = load(profile_name).discover
        assert [row["channel_id"] for row in await connection.fetch(statement.text)] == list(range(20))
        found = await explained(connection, statement)
        await connection.close()
    assert rows_read(found) <= 21
    assert not [node for node in found if node["Node Type"] == "Seq Scan"]


async def test_a_task_without_channel_stops_nobody(make_database):
    with anyio.fail_after(30):
        connection = await asyncpg.connect(await make_database("fork"))
        await connection.execute(
            "INSERT INTO tasks (platform, channel_id, status) VALUES ('custompass', NULL, 'SUBMITTED'), "
            "('custompass', 0, NULL), ('custompass', -1, 'UNKNOWN'), ('custompass', 5, '')"
        )
        rows = await connection.fetch(load("fork").discover.text)
        await connection.close()
    assert [row["channel_id"] for row in rows] == [-1, 0, 5]


async def test_everything_works_without_the_index(make_database, profile_name):
    with anyio.fail_after(30):
        connection = await asyncpg.connect(await make_database(profile_name))
        await connection.execute("DROP INDEX poller_active_tasks")
        await connection.execute(FILL[profile_name], 20)
        await connection.execute(f"UPDATE tasks SET status = '{REOPEN[profile_name]}' WHERE channel_id < 3")
        statements = load(profile_name)
        rows = await connection.fetch(statements.discover.text)
        (queue,) = await connection.fetch(statements.queue.text)
        await connection.close()
    assert [row["channel_id"] for row in rows] == [0, 1, 2]
    assert (queue["submitted"], queue["processing"]) == (0, 3)
