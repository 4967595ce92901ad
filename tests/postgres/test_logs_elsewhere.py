"""Log rows in a second, real database: each settlement's once, in its gateway's shape, whatever happens in between."""

from __future__ import annotations

import json
from collections.abc import Sequence

import anyio
import asyncpg
import pytest

from poller.core.delivery import Entry, Fate
from poller.errors import DatabaseAway
from poller.postgres.logs_elsewhere import LogCourier, LogDatabase
from poller.postgres.outbox import Outbox
from poller.postgres.statements import load
from tests.postgres.gateway import MODEL, Site, failed, open_site, succeeded

LIMIT_S = 60.0


class Split:
    """A gateway whose logs are in a database of their own."""

    def __init__(self, site: Site, dsn: str, logs: asyncpg.Connection, courier: LogCourier) -> None:
        self.site = site
        self.dsn = dsn
        self.logs = logs
        self.courier = courier
        self.outbox = Outbox(site.database, load(site.gateway.profile))

    async def settled(self, count: int = 1, charged: int | None = None) -> None:
        """Settle *count* tasks, each of a user of its own; they fail, or cost *charged*."""
        channel = await self.site.gateway.channel()
        for _ in range(count):
            await self.site.gateway.task(await self.site.gateway.user(), channel)
        tasks = await self.site.tasks(channel)
        await self.site.store.settle([failed(task) if charged is None else succeeded(task, charged) for task in tasks])

    async def claim(self) -> Sequence[Entry]:
        return await self.outbox.claim("log", 100, 60.0, await self.courier.ready())

    async def rows(self) -> list[dict[str, object]]:
        return [dict(row) for row in await self.logs.fetch("SELECT * FROM logs ORDER BY id")]


@pytest.fixture
async def split(make_database, open_database, profile_name):
    site = await open_site(make_database, open_database, profile_name, logs_elsewhere=True)
    dsn = await make_database(profile_name, migrated=False)

    async def open_logs():
        return await open_database(dsn)

    logs = await asyncpg.connect(dsn)
    yield Split(site, dsn, logs, LogCourier(LogDatabase(open_logs), load(profile_name)))
    await logs.close()
    await site.gateway.connection.close()


async def test_a_line_arrives_in_the_shape_that_it_has_beside_the_tasks(split: Split, make_database, open_database):
    """Settled twice on equal databases, once with the logs beside the tasks: the rows differ by the mark alone."""
    profile = split.site.gateway.profile
    beside = await open_site(make_database, open_database, profile)
    with anyio.fail_after(LIMIT_S):
        await split.settled()
        await Split(beside, split.dsn, split.logs, split.courier).settled()
        receipts = await split.courier.deliver(await split.claim())
        assert [each.fate for each in receipts] == [Fate.DELIVERED]
        (there,) = await split.rows()
        (here,) = await beside.gateway.rows("SELECT * FROM logs")
        await beside.gateway.connection.close()
    marks = {"documented": {"content"}, "fork": {"other"}, "main": set()}[profile]
    for name in here.keys() - marks - {"id", "created_at", "request_id", "other"}:
        assert there[name] == here[name], name
    (pk,) = [row["task_pk"] for row in await split.site.gateway.ledger()]
    if profile == "documented":
        assert there["content"] == f"{here['content']} [ledger {pk}]"
    elif profile == "fork":
        assert json.loads(there["other"]) == {"task_pk": pk}
    else:
        assert json.loads(there["other"]) == json.loads(here["other"])
        assert there["request_id"].startswith("poller-")


async def test_the_time_of_a_line_is_that_of_its_settlement(split: Split):
    with anyio.fail_after(LIMIT_S):
        await split.settled()
        await split.courier.deliver(await split.claim())
        (line,) = await split.rows()
        (row,) = await split.site.gateway.ledger()
    if split.site.gateway.profile == "documented":
        assert line["created_at"] == row["settled_at"]
    else:
        assert line["created_at"] == int(row["settled_at"].timestamp())


async def test_lines_delivered_again_after_a_crash_are_there_once(split: Split):
    with anyio.fail_after(LIMIT_S):
        await split.settled(5)
        entries = await split.claim()
        await split.courier.deliver(entries[:3])
        again = await split.courier.deliver(entries)
        assert {each.fate for each in again} == {Fate.DELIVERED}
        await split.courier.deliver(entries)
        assert len(await split.rows()) == 5


async def test_two_replicas_that_deliver_the_same_lines_at_once_add_them_once(split: Split):
    with anyio.fail_after(LIMIT_S):
        await split.settled(20)
        entries = await split.claim()
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(split.courier.deliver, entries)
        assert len(await split.rows()) == 20


async def test_a_replica_that_comes_while_another_adds_the_same_lines_waits_and_adds_none(split: Split):
    sql = load(split.site.gateway.profile)
    watcher = await asyncpg.connect(split.dsn)
    with anyio.fail_after(LIMIT_S):
        await split.settled(3)
        entries = await split.claim()
        is_done = anyio.Event()

        async def other() -> None:
            await split.courier.deliver(entries)
            is_done.set()

        async with anyio.create_task_group() as group, split.logs.transaction():
            await split.logs.fetch(sql.lock_logs.text)
            await split.logs.fetch(sql.add_logs.text, f"[{','.join(each.payload for each in entries)}]")
            group.start_soon(other)
            while not is_done.is_set() and not await watcher.fetchval(
                "SELECT count(*) FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database"
                " WHERE l.locktype = 'advisory' AND NOT l.granted AND d.datname = current_database()"
            ):
                await anyio.sleep(0.01)
        assert len(await split.rows()) == 3
    await watcher.close()


async def test_equal_lines_of_different_tasks_are_all_kept(split: Split):
    gateway = split.site.gateway
    with anyio.fail_after(LIMIT_S):
        user, channel = await gateway.user(), await gateway.channel()
        for _ in range(4):
            await gateway.task(user, channel, task_id="the-same")
        await split.site.store.settle([failed(task) for task in await split.site.tasks(channel)])
        entries = await split.claim()
        for some in (entries[:1], entries, entries):
            await split.courier.deliver(some)
        assert len(await split.rows()) == 4


async def test_a_line_is_found_again_among_rows_that_others_added(split: Split):
    columns = "user_id, type, content"
    values = "1, 'consume', 'x'" if split.site.gateway.profile == "documented" else "1, 2, 'x'"
    with anyio.fail_after(LIMIT_S):
        await split.logs.execute(f"INSERT INTO logs ({columns}) SELECT {values} FROM generate_series(1, 500)")
        await split.settled()
        entries = await split.claim()
        await split.courier.deliver(entries)
        await split.logs.execute(f"INSERT INTO logs ({columns}) SELECT {values} FROM generate_series(1, 500)")
        await split.courier.deliver(entries)
        assert await split.logs.fetchval("SELECT count(*) FROM logs") == 1001


async def test_a_line_is_there_once_in_a_log_database_that_was_restored_between_two_tries(split: Split):
    columns = "user_id, type, content"
    values = "1, 'consume', 'x'" if split.site.gateway.profile == "documented" else "1, 2, 'x'"
    with anyio.fail_after(LIMIT_S):
        await split.logs.execute(f"INSERT INTO logs ({columns}) SELECT {values} FROM generate_series(1, 500)")
        await split.settled()
        await split.claim()
        # A backup of the log database knows fewer rows than were there when the entry was claimed at first.
        await split.logs.execute("DELETE FROM logs WHERE id > 100; SELECT setval('logs_id_seq', 100)")
        for _ in range(2):
            await split.site.gateway.connection.execute("UPDATE poller.outbox SET due_at = now()")
            await split.courier.deliver(await split.claim())
        assert await split.logs.fetchval("SELECT count(*) FROM logs") == 101


async def test_looking_for_a_line_reads_no_whole_table_of_logs(split: Split):
    columns = "user_id, type, content"
    values = "1, 'consume', 'x'" if split.site.gateway.profile == "documented" else "1, 2, 'x'"
    profile = split.site.gateway.profile
    with anyio.fail_after(LIMIT_S):
        await split.logs.execute(f"INSERT INTO logs ({columns}) SELECT {values} FROM generate_series(1, 20000)")
        await split.logs.execute("ANALYZE logs")
        await split.settled(3)
        entries = await split.claim()
        lines = f"[{','.join(each.payload for each in entries)}]"
        async with split.logs.transaction():
            await split.logs.fetch(load(profile).lock_logs.text)
            plan = await split.logs.fetchval(f"EXPLAIN (ANALYZE, FORMAT json) {load(profile).add_logs.text}", lines)
    nodes = list(flat(json.loads(plan)[0]["Plan"]))
    assert not [node for node in nodes if node["Node Type"] == "Seq Scan" and node.get("Relation Name") == "logs"]
    read = [node for node in nodes if node.get("Alias") == "l"]
    assert sum((node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) for node in read) <= 3, plan


def flat(node):
    yield node
    for child in node.get("Plans", []):
        yield from flat(child)


async def test_a_line_that_the_database_refuses_stands_alone(split: Split):
    with anyio.fail_after(LIMIT_S):
        await split.settled(5)
        entries = await split.claim()
        bad = json.loads(entries[2].payload)["user_id"]
        await split.logs.execute(f"ALTER TABLE logs ADD CHECK (user_id <> {bad})")
        receipts = await split.courier.deliver(entries)
        assert [each.fate for each in sorted(receipts)] == [
            Fate.REFUSED if number == 2 else Fate.DELIVERED for number in range(5)
        ]
        assert len(await split.rows()) == 4


async def test_a_log_database_that_is_lost_between_two_halves_leaves_the_second_for_later(
    make_database, open_database, make_proxy, profile_name
):
    site = await open_site(make_database, open_database, profile_name, logs_elsewhere=True)
    direct = await make_database(profile_name, migrated=False)
    proxy, dsn = await make_proxy(direct)

    async def open_logs():
        return await open_database(dsn)

    logs = await asyncpg.connect(direct)
    split = Split(site, direct, logs, LogCourier(LogDatabase(open_logs), load(profile_name)))
    with anyio.fail_after(LIMIT_S):
        await split.settled(5)
        entries = await split.claim()
        first, last = entries[0].payload.encode(), entries[4].payload.encode()
        refused = json.loads(entries[0].payload)["user_id"]
        await logs.execute(f"ALTER TABLE logs ADD CONSTRAINT odd CHECK (user_id <> {refused})")
        proxy.to_server = lambda data: None if last in data and first not in data else data
        receipts = sorted(await split.courier.deliver(entries))
        assert [each.fate for each in receipts] == [Fate.REFUSED, Fate.DELIVERED, Fate.LEFT, Fate.LEFT, Fate.LEFT]
        assert len(await split.rows()) == 1
        proxy.to_server = lambda data: data
        await logs.execute("ALTER TABLE logs DROP CONSTRAINT odd")
        await split.courier.deliver(entries)
        assert len(await split.rows()) == 5
        await logs.close()
        await site.gateway.connection.close()


async def test_a_supplement_is_logged_as_what_it_is(split: Split):
    with anyio.fail_after(LIMIT_S):
        await split.settled(charged=500)
        if split.site.gateway.profile == "fork":
            assert not await split.outbox.is_due("log")
            return
        await split.courier.deliver(await split.claim())
        (line,) = await split.rows()
    assert (line["quota"], line["model_name"]) == (50, MODEL)
    assert line["type"] == ("consume" if split.site.gateway.profile == "documented" else 2)


async def test_a_log_database_that_is_away_raises_and_is_opened_again_when_it_is_back(
    make_database, open_database, make_proxy
):
    site = await open_site(make_database, open_database, "main", logs_elsewhere=True)
    proxy, dsn = await make_proxy(await make_database("main", migrated=False))

    async def open_logs():
        return await open_database(dsn, connect_timeout_s=2.0)

    courier = LogCourier(LogDatabase(open_logs), load("main"))
    with anyio.fail_after(LIMIT_S):
        proxy.to_server = lambda data: None
        with pytest.raises(DatabaseAway):
            await courier.ready()
        proxy.to_server = lambda data: data
        assert await courier.ready() == 0
        await site.gateway.connection.close()
