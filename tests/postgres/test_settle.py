"""What a settlement moves, in each profile, and that it moves it once."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import anyio
import pytest

from poller.core.model import Outcome, Settlement, Verdict
from tests.postgres.gateway import MODEL, Site, failed, open_site, succeeded

LIMIT_S = 30


@pytest.fixture
async def site(make_database, open_database, profile_name) -> AsyncIterator[Site]:
    with anyio.fail_after(LIMIT_S):
        made = await open_site(make_database, open_database, profile_name)
    yield made
    await made.gateway.connection.close()


async def seeded(site: Site, *quotas: int | None) -> tuple[int, int, list]:
    """One user and one channel with a task for each of *quotas*."""
    user, channel = await site.gateway.user(), await site.gateway.channel()
    for quota in quotas:
        await site.gateway.task(user, channel, quota)
    return user, channel, await site.tasks(channel)


async def test_refund_gives_the_rest_back_and_finishes_the_task(site):
    user, _, (task,) = await seeded(site, 450)
    start = {user: await site.gateway.balance(user)}
    (fate,) = await site.store.settle([succeeded(task, 41)])
    assert (fate.verdict, fate.outcome, fate.reserved, fate.charged, fate.refunded) == (
        Verdict.SETTLED, Outcome.SUCCESS, 450, 41, 409,
    )  # fmt: skip
    row = await site.gateway.row("tasks", task.pk)
    assert row["status"] == site.gateway.word("SUCCESS")
    assert (row["progress"], row["quota"]) == ("100%", 41)
    assert json.loads(row["data"]) == {"status": "completed"}
    assert (await site.gateway.balance(user))[0] == 1409
    await site.expect_money(start)


async def test_failure_gives_everything_back_and_says_why(site):
    user, _, (task,) = await seeded(site, 450)
    start = {user: await site.gateway.balance(user)}
    (fate,) = await site.store.settle([failed(task, "no such video")])
    assert (fate.verdict, fate.charged, fate.refunded) == (Verdict.SETTLED, 0, 450)
    row = await site.gateway.row("tasks", task.pk)
    assert row["status"] == site.gateway.word("FAILURE")
    assert (row["progress"], row["fail_reason"]) == ("100%", "no such video")
    assert row["quota"] == (450 if site.gateway.profile == "fork" else 0)
    await site.expect_money(start)


async def test_a_gateway_that_refunds_failures_with_a_quota_left_finds_none_of_ours(site):
    if site.gateway.profile == "fork":
        pytest.skip("no version of the fork looks for them, and its quota stays what was reserved")
    user, _, (task,) = await seeded(site, 450)
    await site.store.settle([failed(task)])
    assert (await site.gateway.balance(user))[0] == 1450
    swept = await site.gateway.rows(
        "WITH owed AS (SELECT user_id, quota FROM tasks WHERE status = $1 AND quota <> 0)"
        " UPDATE users AS u SET quota = u.quota + owed.quota FROM owed WHERE u.id = owed.user_id RETURNING u.id",
        site.gateway.word("FAILURE"),
    )
    assert swept == []
    assert (await site.gateway.balance(user))[0] == 1450


async def test_supplement_takes_what_is_missing(site):
    user, _, (task,) = await seeded(site, 45)
    start = {user: await site.gateway.balance(user)}
    (fate,) = await site.store.settle([succeeded(task, 60)])
    assert (fate.reserved, fate.charged, fate.refunded) == (45, 60, -15)
    assert (await site.gateway.balance(user))[0] == 985
    await site.expect_money(start)


async def test_supplement_beyond_the_balance_is_still_taken(site):
    channel = await site.gateway.channel()
    user = await site.gateway.user(quota=5)
    await site.gateway.task(user, channel, 45)
    (task,) = await site.tasks(channel)
    await site.store.settle([succeeded(task, 60)])
    assert (await site.gateway.balance(user))[0] == -10


async def test_as_reserved_moves_no_balance_and_is_in_the_ledger(site):
    user, _, (task,) = await seeded(site, 300)
    start = {user: await site.gateway.balance(user)}
    (fate,) = await site.store.settle([succeeded(task, None, price_source="fixed")])
    assert (fate.verdict, fate.reserved, fate.charged, fate.refunded) == (Verdict.SETTLED, 300, 300, 0)
    (entry,) = await site.gateway.ledger()
    assert (entry["reserved"], entry["charged"], entry["price_source"]) == (300, 300, "fixed")
    assert await site.gateway.rows("SELECT 1 FROM logs") == []
    assert await site.gateway.balance(user) == start[user]


async def test_expired_task_is_refunded_and_its_data_replaced(site):
    user, _, (task,) = await seeded(site, 450)
    start = {user: await site.gateway.balance(user)}
    data = '{"task_id": "job-1", "status": "timeout"}'
    (fate,) = await site.store.settle([failed(task, "no result in 3600 s", rule="expired", data=data)])
    assert (fate.rule, fate.refunded) == ("expired", 450)
    row = await site.gateway.row("tasks", task.pk)
    assert json.loads(row["data"])["status"] == "timeout"
    await site.expect_money(start)


async def test_what_was_reserved_comes_from_the_row_and_not_from_the_page(site):
    user, _, (task,) = await seeded(site, 450)
    await site.gateway.connection.execute("UPDATE tasks SET quota = 200 WHERE id = $1", task.pk)
    (fate,) = await site.store.settle([failed(task)])
    assert (task.reserved, fate.reserved, fate.refunded) == (450, 200, 200)
    assert (await site.gateway.balance(user))[0] == 1200


async def test_ledger_row_holds_all_that_was_decided(site):
    user, channel, (task,) = await seeded(site, 450)
    await site.store.settle([succeeded(task, 41)])
    (entry,) = await site.gateway.ledger()
    wanted = {
        "task_pk": task.pk, "task_id": "job-1", "user_id": user, "channel_id": channel, "purse": "wallet",
        "model": MODEL, "outcome": "SUCCESS", "rule": "success_word", "reserved": 450, "charged": 41, "refunded": 409,
        "price_source": "saved", "prompt_tokens": 10, "completion_tokens": 35, "evidence": "said completed",
        "replica": "replica-1",
    }  # fmt: skip
    assert {name: entry[name] for name in wanted} == wanted


async def test_second_settlement_of_a_task_moves_no_quota(site):
    user, _, (task,) = await seeded(site, 450)
    await site.store.settle([succeeded(task, 41)])
    before = await site.gateway.balance(user)
    (fate,) = await site.store.settle([failed(task)])
    assert (fate.verdict, fate.outcome, fate.charged) == (Verdict.ALREADY, Outcome.SUCCESS, 41)
    assert await site.gateway.balance(user) == before
    assert (await site.gateway.row("tasks", task.pk))["status"] == site.gateway.word("SUCCESS")


async def test_several_tasks_of_one_user_are_all_paid(site):
    user, _, tasks = await seeded(site, 10, 20, 30, 40, 50)
    start = {user: await site.gateway.balance(user)}
    fates = await site.store.settle([failed(task) for task in tasks])
    assert [fate.refunded for fate in fates] == [10, 20, 30, 40, 50]
    assert (await site.gateway.balance(user))[0] == 1150
    await site.expect_money(start)


async def test_one_task_given_twice_is_settled_once(site):
    user, _, (task,) = await seeded(site, 450)
    fates = await site.store.settle([failed(task), failed(task)])
    assert [fate.verdict for fate in fates] == [Verdict.SETTLED]
    assert (await site.gateway.balance(user))[0] == 1450


async def test_task_reopened_by_a_whole_row_save_is_restored_and_paid_once(site):
    user, channel, (task,) = await seeded(site, 450)
    await site.store.settle([failed(task, "broken")])
    before = await site.gateway.balance(user)
    await site.gateway.connection.execute(
        "UPDATE tasks SET status = $2, progress = '30%', quota = 450, fail_reason = '', data = NULL WHERE id = $1",
        task.pk,
        site.gateway.word("IN_PROGRESS"),
    )
    (again,) = await site.tasks(channel)
    (fate,) = await site.store.settle([succeeded(again, 41)])
    assert (fate.verdict, fate.outcome, fate.refunded) == (Verdict.REOPENED, Outcome.FAILURE, 450)
    row = await site.gateway.row("tasks", task.pk)
    assert (row["status"], row["progress"], row["fail_reason"]) == (site.gateway.word("FAILURE"), "100%", "broken")
    assert row["quota"] == (450 if site.gateway.profile == "fork" else 0)
    assert await site.gateway.balance(user) == before
    assert await site.tasks(channel) == []


async def test_row_that_somebody_else_finished_is_left_alone(site):
    user, _, (task,) = await seeded(site, 450)
    await site.gateway.set_state(task.pk, "FAILURE")
    (fate,) = await site.store.settle([succeeded(task, 41)])
    assert (fate.verdict, fate.reserved) == (Verdict.FINAL, 0)
    assert await site.gateway.ledger() == []
    assert await site.gateway.balance(user) == (1000, 5000)


@pytest.mark.parametrize("column", ["user_id", "channel_id", "task_id"])
async def test_row_that_changed_hands_is_left_for_the_next_pass(site, column):
    user, _, (task,) = await seeded(site, 450)
    other = "'another'" if column == "task_id" else "987654"
    await site.gateway.connection.execute(f"UPDATE tasks SET {column} = {other} WHERE id = $1", task.pk)
    (fate,) = await site.store.settle([failed(task)])
    assert fate.verdict is Verdict.MOVED
    assert await site.gateway.ledger() == []
    assert await site.gateway.balance(user) == (1000, 5000)


@pytest.mark.parametrize(
    "change", ["DELETE FROM tasks WHERE id = $1", "UPDATE tasks SET platform = 'suno' WHERE id = $1"]
)
async def test_row_that_is_gone_or_of_another_platform_moves_nothing(site, change):
    user, _, (task,) = await seeded(site, 450)
    await site.gateway.connection.execute(change, task.pk)
    (fate,) = await site.store.settle([failed(task)])
    assert fate.verdict is Verdict.GONE
    assert await site.gateway.balance(user) == (1000, 5000)


async def test_ledger_row_of_another_task_with_the_same_pk_is_for_a_person(site):
    user, channel, (task,) = await seeded(site, 450)
    await site.store.settle([failed(task)])
    await site.gateway.connection.execute("DELETE FROM tasks WHERE id = $1", task.pk)
    await site.gateway.task(user, channel, 70, id=task.pk)
    (fresh,) = await site.tasks(channel)
    (fate,) = await site.store.settle([failed(fresh)])
    assert (fate.verdict, fate.reason) == (Verdict.QUARANTINED, "ledger_of_another_task")
    assert await site.tasks(channel) == []
    assert (await site.gateway.balance(user))[0] == 1450


async def test_row_that_vanished_after_its_settlement_needs_nobody(site):
    user, _, (task,) = await seeded(site, 450)
    await site.store.settle([failed(task)])
    await site.gateway.connection.execute("DELETE FROM tasks WHERE id = $1", task.pk)
    (fate,) = await site.store.settle([failed(task)])
    assert (fate.verdict, fate.refunded) == (Verdict.ALREADY, 450)
    assert await site.gateway.rows("SELECT 1 FROM poller.watch") == []
    assert (await site.gateway.balance(user))[0] == 1450


async def test_settling_forgets_what_was_remembered_about_the_task(site):
    _, channel, (task,) = await seeded(site, 450)
    await site.store.remember(channel, [(task, 2)])
    await site.store.settle([failed(task)])
    assert await site.gateway.rows("SELECT 1 FROM poller.watch") == []


async def test_null_quota_is_settled_as_nothing_reserved(site):
    if site.gateway.profile == "documented":
        await site.gateway.connection.execute("ALTER TABLE tasks ALTER quota DROP NOT NULL")
    user, _, (task,) = await seeded(site, None)
    (fate,) = await site.store.settle([failed(task)])
    assert (fate.verdict, fate.reserved, fate.refunded) == (Verdict.SETTLED, 0, 0)
    assert await site.gateway.balance(user) == (1000, 5000)


async def test_batch_of_every_kind_gets_its_own_verdicts(site):
    user, channel, tasks = await seeded(site, 10, 20, 30, -5, 50)
    await site.gateway.set_state(tasks[1].pk, "SUCCESS")
    await site.gateway.connection.execute("DELETE FROM tasks WHERE id = $1", tasks[2].pk)
    fates = await site.store.settle([failed(task) for task in tasks])
    assert [(fate.verdict.value, fate.reason) for fate in fates] == [
        ("settled", ""), ("final", ""), ("gone", ""), ("quarantined", "quota_negative"), ("settled", ""),
    ]  # fmt: skip
    assert (await site.gateway.balance(user))[0] == 1060
    assert [task.pk for task in await site.tasks(channel)] == []


async def test_soft_deleted_user_is_still_paid(site):
    if site.gateway.profile == "documented":
        pytest.skip("the guide's users know no soft deletion")
    user, _, (task,) = await seeded(site, 450)
    await site.gateway.connection.execute("UPDATE users SET deleted_at = now() WHERE id = $1", user)
    await site.store.settle([failed(task)])
    assert (await site.gateway.balance(user))[0] == 1450


@pytest.mark.parametrize("charged", [True, 1.5, -1, 2**63, "5"])
async def test_charge_that_is_no_amount_never_reaches_the_database(site, charged):
    user, channel, tasks = await seeded(site, 450, 10)
    fates = await site.store.settle([succeeded(tasks[0], charged), failed(tasks[1])])
    assert [(fate.verdict, fate.reason) for fate in fates] == [
        (Verdict.QUARANTINED, "bad_amount"), (Verdict.SETTLED, ""),
    ]  # fmt: skip
    assert (await site.gateway.balance(user))[0] == 1010
    assert await site.tasks(channel) == []


async def test_failure_that_costs_something_is_refused(site):
    user, _, (task,) = await seeded(site, 450)
    fates = await site.store.settle([Settlement(task, Outcome.FAILURE, 7, "failed_word")])
    assert [fate.verdict for fate in fates] == [Verdict.QUARANTINED]
    assert await site.gateway.balance(user) == (1000, 5000)


async def test_log_rows_go_to_the_outbox_when_logs_live_elsewhere(make_database, open_database, profile_name):
    site = await open_site(make_database, open_database, profile_name, logs_elsewhere=True, moves_caches=True)
    try:
        user, _, tasks = await seeded(site, 450, 50)
        await site.store.settle([failed(task) for task in tasks])
        assert await site.gateway.rows("SELECT 1 FROM logs") == []
        posted = await site.gateway.rows("SELECT kind, task_pk, payload FROM poller.outbox ORDER BY kind, task_pk")
        assert [(row["kind"], row["task_pk"]) for row in posted] == [
            ("log", tasks[0].pk), ("log", tasks[1].pk), ("user_cache", tasks[0].pk),
        ]  # fmt: skip
        assert json.loads(posted[0]["payload"])["user_id"] == user
        assert json.loads(posted[2]["payload"]) == {"user_id": user, "delta": 500}
    finally:
        await site.gateway.connection.close()
