"""What the daemon sees beside its own work, and that looking is cheap on a large table."""

from __future__ import annotations

import time

import anyio
import asyncpg
import pytest

from poller.postgres.statements import load
from poller.postgres.watchman import Queue, Watchman

ACTIVE = {
    "documented": ("submitted", "processing"),
    "fork": ("SUBMITTED", "IN_PROGRESS"),
    "main": ("QUEUED", "IN_PROGRESS"),
}
FINAL = {"documented": "completed", "fork": "SUCCESS", "main": "FAILURE"}


async def run(dsn: str, script: str, *args: object) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute(script, *args)
    await connection.close()


async def add_tasks(
    dsn: str,
    profile: str,
    count: int,
    *,
    status: str | None,
    channel: int = 1,
    age_s: float = 0.0,
    platform: str = "custompass",
) -> None:
    """*count* tasks submitted *age_s* ago; a final one also ended then."""
    now_s = time.time() - age_s
    if profile == "documented":
        columns, values = "created_at, updated_at", "to_timestamp($5), to_timestamp($5)"
    else:
        columns, values = "created_at, submit_time, finish_time", "floor($5), floor($5), floor($5)"
    await run(
        dsn,
        f"INSERT INTO tasks (task_id, user_id, action, platform, status, channel_id, {columns}) "
        f"SELECT 't' || n, 1, 'm/submit', $1, $2, $3, {values} FROM generate_series(1, $4::int) n",
        platform,
        status,
        channel,
        count,
        now_s,
    )


@pytest.fixture
async def dsn(make_database, profile_name):
    return await make_database(profile_name)


@pytest.fixture
async def watchman(open_database, dsn, profile_name):
    return Watchman(await open_database(dsn), load(profile_name))


async def test_nothing_active_is_an_empty_queue(watchman):
    with anyio.fail_after(30):
        assert await watchman.queue() == Queue(0, 0, 0.0)


async def test_the_queue_counts_what_upstream_has_and_has_not_started(watchman, dsn, profile_name):
    waiting, running = ACTIVE[profile_name]
    with anyio.fail_after(30):
        await add_tasks(dsn, profile_name, 3, status=waiting)
        await add_tasks(dsn, profile_name, 2, status=running, channel=2)
        await add_tasks(dsn, profile_name, 9, status=FINAL[profile_name])
        await add_tasks(dsn, profile_name, 9, status=waiting, platform="suno")
        extra = 0
        if profile_name != "documented":
            await add_tasks(dsn, profile_name, 1, status=None)
            await add_tasks(dsn, profile_name, 1, status="UNKNOWN")
            extra = 2
        queue = await watchman.queue()
        assert (queue.submitted, queue.processing) == (3 + extra, 2)


async def test_the_oldest_unasked_task_is_that_of_the_worst_served_lane(watchman, dsn, profile_name):
    waiting, _ = ACTIVE[profile_name]
    with anyio.fail_after(30):
        await add_tasks(dsn, profile_name, 1, status=waiting, channel=1, age_s=500)
        await add_tasks(dsn, profile_name, 1, status=waiting, channel=2, age_s=300)
        await run(dsn, "INSERT INTO poller.lane (channel_id) VALUES (1), (2)")
        assert (await watchman.queue()).oldest_unasked_s == pytest.approx(500, abs=20)
        # Asked for since: the pass counts, not the age of the task.
        await run(dsn, "UPDATE poller.lane SET pass_started_at = now() - interval '40 s' WHERE channel_id = 1")
        assert (await watchman.queue()).oldest_unasked_s == pytest.approx(300, abs=20)
        await run(dsn, "UPDATE poller.lane SET pass_started_at = now() - interval '70 s' WHERE channel_id = 2")
        assert (await watchman.queue()).oldest_unasked_s == pytest.approx(70, abs=20)


async def test_a_lane_that_slept_for_a_day_is_not_a_day_behind_with_a_new_task(watchman, dsn, profile_name):
    waiting, _ = ACTIVE[profile_name]
    with anyio.fail_after(30):
        await add_tasks(dsn, profile_name, 1, status=waiting, age_s=5)
        await run(dsn, "INSERT INTO poller.lane (channel_id, pass_started_at) VALUES (1, now() - interval '1 day')")
        assert (await watchman.queue()).oldest_unasked_s == pytest.approx(5, abs=20)


async def test_a_time_in_the_future_hides_no_backlog(watchman, dsn, profile_name):
    waiting, _ = ACTIVE[profile_name]
    with anyio.fail_after(30):
        await add_tasks(dsn, profile_name, 1, status=waiting, age_s=-86400)
        await run(dsn, "INSERT INTO poller.lane (channel_id, pass_started_at) VALUES (1, now() - interval '90 s')")
        assert (await watchman.queue()).oldest_unasked_s == pytest.approx(90, abs=20)


async def test_tasks_that_became_final_without_our_ledger_betray_a_second_writer(watchman, dsn, profile_name):
    final = FINAL[profile_name]
    with anyio.fail_after(30):
        await add_tasks(dsn, profile_name, 1, status=final, channel=4, age_s=1000)
        await add_tasks(dsn, profile_name, 2, status=final, channel=5, age_s=10)
        await add_tasks(dsn, profile_name, 1, status=final, age_s=10, platform="suno")
        await add_tasks(dsn, profile_name, 1, status=ACTIVE[profile_name][1], age_s=10)
        since_s = await watchman.db_now() - 100
        assert await watchman.foreign_finals(since_s) == [(2, 5, "t1"), (3, 5, "t2")]
        await run(
            dsn,
            "INSERT INTO poller.ledger "
            "(task_pk, task_id, user_id, channel_id, outcome, rule, reserved, charged, refunded, attempt) "
            "VALUES (2, 't1', 1, 5, 'SUCCESS', 'success_word', 5, 5, 0, gen_random_uuid())",
        )
        assert await watchman.foreign_finals(since_s) == [(3, 5, "t2")]


async def test_what_a_former_task_with_the_same_key_was_held_for_counts_nowhere(dsn, open_database, profile_name):
    with anyio.fail_after(30):
        database, sql = await open_database(dsn), load(profile_name)
        await add_tasks(dsn, profile_name, 3, status=ACTIVE[profile_name][0])
        await run(
            dsn,
            "INSERT INTO poller.watch (task_pk, task_id, channel_id, quarantined_at, reason) VALUES "
            "(1, 'former', 1, now(), 'user_gone'), (2, 't2', 1, now(), 'user_gone'), (3, NULL, 1, now(), 'user_gone')",
        )
        assert await Watchman(database, sql).quarantined() == 2
        assert [row["pk"] for row in await database.fetch(sql.held, None, 10)] == [2, 3]
        assert [row["tasks"] for row in await database.fetch(sql.held_reasons)] == [2]
        assert [row["reason"] for row in await database.fetch(sql.open_tasks, None, 10)] == ["", *["user_gone"] * 2]


@pytest.mark.parametrize("profile_name", ["fork", "main"])
async def test_a_task_that_a_gateway_gave_up_without_a_finish_time_betrays_it_too(watchman, dsn, profile_name):
    """What a gateway does to all tasks of a channel that is gone: failed, no refund, no time of its end."""
    with anyio.fail_after(30):
        await add_tasks(dsn, profile_name, 4, status=ACTIVE[profile_name][1], channel=7)
        since_s = await watchman.db_now()
        gave_up = (
            "UPDATE tasks SET status = 'FAILURE', progress = '100%', finish_time = {}, updated_at = $1 WHERE id = {}"
        )
        await run(dsn, gave_up.format("0", 2), int(since_s) + 1)
        await run(dsn, gave_up.format("NULL", 3), int(since_s) + 1)
        await run(dsn, gave_up.format("0", 4), int(since_s) - 1000)  # long ago
        assert [pk for pk, _, _ in await watchman.foreign_finals(since_s)] == [2, 3]


async def test_quarantine_counts_until_somebody_finished_the_task(watchman, dsn, profile_name):
    with anyio.fail_after(30):
        await add_tasks(dsn, profile_name, 2, status=ACTIVE[profile_name][0])
        await run(
            dsn,
            "INSERT INTO poller.watch (task_pk, channel_id, quarantined_at) VALUES (1, 1, now()), (2, 1, now()), "
            "(3, 1, now())",
        )
        await run(dsn, "INSERT INTO poller.watch (task_pk, channel_id, sightings) VALUES (4, 1, 2)")
        assert await watchman.quarantined() == 2
        await run(dsn, "UPDATE tasks SET status = $1 WHERE id = 1", FINAL[profile_name])
        assert await watchman.quarantined() == 1


async def test_the_clock_is_that_of_the_database(watchman):
    with anyio.fail_after(30):
        assert await watchman.db_now() == pytest.approx(time.time(), abs=60)


async def test_a_huge_backlog_is_estimated_by_reading_a_part_of_it(watchman, dsn, profile_name):
    waiting, running = ACTIVE[profile_name]
    with anyio.fail_after(120):
        await add_tasks(dsn, profile_name, 60_000, status=waiting)
        await add_tasks(dsn, profile_name, 20_000, status=running, channel=2)
        await run(dsn, "VACUUM ANALYZE tasks")
        queue = await watchman.queue()
        assert queue.submitted + queue.processing == pytest.approx(80_000, rel=0.02)


@pytest.mark.parametrize("profile_name", ["fork", "main"])
async def test_active_tasks_that_name_no_channel_are_counted_and_named(dsn, open_database, profile_name):
    with anyio.fail_after(30):
        database = await open_database(dsn)
        watchman = Watchman(database, load(profile_name))
        assert await watchman.unassigned() == (0, [])
        await add_tasks(dsn, profile_name, 20, status=ACTIVE[profile_name][0])
        await add_tasks(dsn, profile_name, 8, status=ACTIVE[profile_name][0], channel=0)
        await run(dsn, "UPDATE tasks SET channel_id = NULL WHERE id <= 4")
        await run(dsn, "UPDATE tasks SET channel_id = NULL, status = 'SUCCESS' WHERE id = 5")
        assert await watchman.unassigned() == (12, [1, 2, 3, 4, 21, 22, 23, 24, 25, 26])
