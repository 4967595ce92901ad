"""Which counters and log rows each gateway's settlement moves, and which it leaves alone."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from poller.core.model import Advance, State, Task, Verdict
from poller.errors import Misconfigured
from tests.postgres.gateway import MODEL, Site, failed, open_site, succeeded

CONTEXT = {"model_ratio": 2, "group_ratio": 0.8, "other_ratios": {"seconds": 5}, "origin_model_name": "gpt-video"}


@pytest.fixture
def opened(make_database, open_database):
    @asynccontextmanager
    async def open_(profile: str, **more: object) -> AsyncIterator[Site]:
        site = await open_site(make_database, open_database, profile, **more)
        try:
            yield site
        finally:
            await site.gateway.connection.close()

    return open_


async def one(site: Site, quota: int = 450, user: int | None = None, **more: object) -> tuple[int, int, Task]:
    user = user or await site.gateway.user()
    channel = await site.gateway.channel()
    await site.gateway.task(user, channel, quota, **more)
    (task,) = await site.tasks(channel)
    return user, channel, task


async def logs(site: Site) -> list[dict]:
    return await site.gateway.rows("SELECT * FROM logs ORDER BY id")


# -- documented ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("charged", "wanted"), [(41, ("refund", 409)), (500, ("consume", 50))], ids=["refund", "supplement"]
)
async def test_documented_writes_the_log_row_of_the_guide(opened, charged, wanted):
    async with opened("documented") as site:
        user, _, task = await one(site)
        await site.store.settle([succeeded(task, charged)])
        (line,) = await logs(site)
        assert (line["type"], line["quota"]) == wanted
        assert (line["user_id"], line["model_name"]) == (user, MODEL)
        assert (line["prompt_tokens"], line["completion_tokens"]) == (10, 35)


async def test_documented_leaves_nothing_for_the_guides_own_repair_to_pay(opened):
    async with opened("documented") as site:
        user, channel, _ = await one(site, 450)
        await site.gateway.task(user, channel, 100)
        tasks = await site.tasks(channel)
        await site.store.settle([succeeded(tasks[0], 41), failed(tasks[1])])
        owed = await site.gateway.rows(
            "SELECT id FROM tasks WHERE status IN ('completed', 'failed') AND quota > used_quota"
        )
        assert owed == []
        row = await site.gateway.row("tasks", tasks[0].pk)
        assert (row["quota"], row["used_quota"]) == (41, 41)
        assert await site.gateway.balance(user) == (1000 + 409 + 100, 5000 - 509)


async def test_documented_row_in_a_status_of_nobody_is_not_touched(opened):
    async with opened("documented") as site:
        user, _, task = await one(site)
        await site.gateway.connection.execute("UPDATE tasks SET status = 'cancelling' WHERE id = $1", task.pk)
        (fate,) = await site.store.settle([failed(task)])
        assert fate.verdict is Verdict.FINAL
        assert await site.gateway.balance(user) == (1000, 5000)


# -- fork ------------------------------------------------------------------------------------------------------------


async def test_fork_moves_the_balance_alone(opened):
    async with opened("fork") as site:
        user, channel, task = await one(site)
        token = await site.gateway.add("tokens", user_id=user, key="k" * 48, remain_quota=10, used_quota=20)
        await site.store.settle([failed(task)])
        assert await site.gateway.balance(user) == (1450, 5000)
        row = await site.gateway.row("tokens", token)
        assert (row["remain_quota"], row["used_quota"], row["accessed_time"]) == (10, 20, None)
        assert (await site.gateway.row("channels", channel))["used_quota"] == 90_000


@pytest.mark.parametrize(("used", "left"), [(90_000, 89_550), (100, 0)])
async def test_fork_lowers_the_channel_after_a_failure_only_where_told_and_never_below_zero(opened, used, left):
    async with opened("fork", lower_channel_used_quota=True) as site:
        user, channel, task = await one(site)
        await site.gateway.task(user, channel, 100)
        other = (await site.tasks(channel))[1]
        await site.gateway.connection.execute("UPDATE channels SET used_quota = $1", used)
        await site.store.settle([failed(task), succeeded(other, 1)])
        assert (await site.gateway.row("channels", channel))["used_quota"] == left


@pytest.mark.parametrize(
    ("options", "amount"),
    [
        ({}, "＄0.000900 额度"),
        ({"QuotaPerUnit": "1000"}, "＄0.450000 额度"),
        ({"QuotaPerUnit": "lots"}, "＄0.000900 额度"),
        ({"QuotaPerUnit": "0"}, "＄0.000900 额度"),
        ({"DisplayInCurrencyEnabled": "false"}, "450 点额度"),
    ],
)
async def test_fork_logs_a_failure_in_its_own_words(opened, options, amount):
    async with opened("fork") as site:
        for key, value in options.items():
            await site.gateway.connection.execute("INSERT INTO options VALUES ($1, $2)", key, value)
        user, _, task = await one(site)
        await site.store.settle([failed(task, "no such video")])
        (line,) = await logs(site)
        assert line["content"] == (
            f"CustomPass任务失败退费 - 模型: {MODEL}, 任务ID: job-1, 补偿 {amount}, 原因: no such video"
        )
        assert (line["type"], line["user_id"], line["username"]) == (4, user, "user-0")
        assert (line["quota"], line["model_name"], line["channel_id"], line["token_id"]) == (0, "", None, 0)


async def test_fork_logs_an_expired_task_as_timed_out_and_a_success_not_at_all(opened):
    async with opened("fork") as site:
        user, channel, task = await one(site)
        await site.gateway.task(user, channel, 100)
        other = (await site.tasks(channel))[1]
        await site.store.settle([failed(task, "late", rule="expired"), succeeded(other, 1)])
        (line,) = await logs(site)
        assert line["content"].startswith("CustomPass任务超时退费 - 模型: ")
        assert await site.gateway.balance(user) == (1000 + 450 + 99, 5000)


async def test_fork_keeps_the_reservation_on_a_failed_task_and_records_the_price_of_a_success(opened):
    async with opened("fork") as site:
        user, channel, task = await one(site)
        await site.gateway.task(user, channel, 100)
        other = (await site.tasks(channel))[1]
        await site.store.settle([failed(task), succeeded(other, 7)])
        assert (await site.gateway.row("tasks", task.pk))["quota"] == 450
        assert (await site.gateway.row("tasks", other.pk))["quota"] == 7


# -- times of fork and main ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["fork", "main"])
async def test_times_are_filled_and_never_run_backwards(opened, profile):
    async with opened(profile) as site:
        ahead = 4_000_000_000
        user, channel, task = await one(site)
        await site.gateway.task(user, channel, 100, submit_time=ahead, start_time=ahead - 5)
        late = (await site.tasks(channel))[1]
        await site.store.settle([failed(task), failed(late)])
        row, odd = await site.gateway.row("tasks", task.pk), await site.gateway.row("tasks", late.pk)
        assert row["submit_time"] < row["start_time"] == row["finish_time"] == row["updated_at"]
        assert (odd["start_time"], odd["finish_time"]) == (ahead - 5, ahead)


@pytest.mark.parametrize("profile", ["fork", "main"])
async def test_task_without_any_status_is_settled(opened, profile):
    async with opened(profile) as site:
        user, _, task = await one(site, status=None, progress=None)
        (fate,) = await site.store.settle([failed(task)])
        assert fate.verdict is Verdict.SETTLED
        assert (await site.gateway.balance(user))[0] == 1450


# -- main ------------------------------------------------------------------------------------------------------------


async def paid_by_token(site: Site, **private: object) -> tuple[int, int, int, Task]:
    user = await site.gateway.user()
    token = await site.gateway.add(
        "tokens", user_id=user, key="k" * 48, name="my token", remain_quota=10, used_quota=2000, unlimited_quota=True
    )
    saved = json.dumps({"token_id": token, "billing_source": "wallet", "billing_context": CONTEXT} | private)
    _, channel, task = await one(site, user=user, private_data=saved, group="vip")
    return user, token, channel, task


async def test_main_reverses_every_counter_that_submitting_moved(opened):
    async with opened("main") as site:
        user, token, channel, task = await paid_by_token(site)
        await site.store.settle([failed(task)])
        assert await site.gateway.balance(user) == (1450, 4550)
        row = await site.gateway.row("tokens", token)
        assert (row["remain_quota"], row["used_quota"]) == (460, 1550)
        assert row["accessed_time"] > 1_700_000_000
        assert (await site.gateway.row("channels", channel))["used_quota"] == 89_550
        assert (await site.gateway.row("tasks", task.pk))["quota"] == 0
        assert (await site.gateway.row("users", user))["request_count"] == 0


async def test_main_supplement_moves_the_same_counters_the_other_way(opened):
    async with opened("main") as site:
        user, token, channel, task = await paid_by_token(site)
        await site.store.settle([succeeded(task, 500)])
        assert await site.gateway.balance(user) == (950, 5050)
        row = await site.gateway.row("tokens", token)
        assert (row["remain_quota"], row["used_quota"]) == (-40, 2050)
        assert (await site.gateway.row("channels", channel))["used_quota"] == 90_050
        assert (await site.gateway.row("tasks", task.pk))["quota"] == 500


@pytest.mark.parametrize(
    "properties",
    [
        None,
        "{}",
        json.dumps({"input": "\x00"}),
        json.dumps(
            {"input": json.dumps({"prompt": '"origin_model_name" and \x00'}), "billing_info": {"model_ratio": 1}}
        ),
    ],
)
async def test_main_settles_a_task_of_the_fork_without_the_counters_that_the_fork_never_moved(opened, properties):
    async with opened("main") as site:
        user, channel = await site.gateway.user(), await site.gateway.channel()
        for quota, text in ((450, properties), (450, properties), (30, json.dumps({"upstream_model_name": "m"}))):
            await site.gateway.task(user, channel, quota, properties=text)
        first, second, own = await site.tasks(channel)
        assert [task.is_forks for task in (first, second, own)] == [True, True, False]
        assert {
            fate.verdict for fate in await site.store.settle([failed(first), succeeded(second, 500), failed(own)])
        } == {Verdict.SETTLED}
        # The balance moves by all of them, everything else by the one that current new-api charged.
        assert await site.gateway.balance(user) == (1000 + 450 - 50 + 30, 5000 - 30)
        assert (await site.gateway.row("channels", channel))["used_quota"] == 90_000 - 30


async def test_main_log_row_of_a_refund(opened):
    async with opened("main") as site:
        user, token, channel, task = await paid_by_token(site)
        await site.store.settle([failed(task, "no such video")])
        (line,) = await logs(site)
        wanted = {
            "user_id": user, "type": 6, "quota": 450, "content": "", "username": "user-0", "token_name": "my token",
            "token_id": token, "channel_id": channel, "model_name": "gpt-video", "group": "vip",
        }  # fmt: skip
        assert {name: line[name] for name in wanted} == wanted
        assert json.loads(line["other"]) == {
            "task_id": "job-1", "task_pk": task.pk, "is_task": True, "reason": "no such video",
            "pre_consumed_quota": 450, "actual_quota": 0, "model_ratio": 2, "group_ratio": 0.8, "seconds": 5,
        }  # fmt: skip
        assert 0 < len(line["request_id"]) <= 64


@pytest.mark.parametrize(("option", "lines"), [(None, 1), ("true", 1), ("false", 0)])
async def test_main_logs_consumption_only_where_the_gateway_does(opened, option, lines):
    async with opened("main") as site:
        if option:
            await site.gateway.connection.execute("INSERT INTO options VALUES ('LogConsumeEnabled', $1)", option)
        user, channel, task = await one(site)
        await site.gateway.task(user, channel, 100)
        other = (await site.tasks(channel))[1]
        await site.store.settle([succeeded(task, 500), succeeded(other, 1)])
        types = [line["type"] for line in await logs(site)]
        assert (types.count(2), types.count(6)) == (lines, 1)
        assert (await site.gateway.balance(user))[0] == 1000 - 50 + 99


@pytest.mark.parametrize("fate", ["gone", "of somebody else", "soft deleted"])
async def test_main_token_that_is_no_longer_the_users_keeps_no_money_from_the_user(opened, fate):
    async with opened("main") as site:
        user, token, _, task = await paid_by_token(site)
        change = {
            "gone": "DELETE FROM tokens WHERE id = $1",
            "of somebody else": "UPDATE tokens SET user_id = 777 WHERE id = $1",
            "soft deleted": "UPDATE tokens SET deleted_at = now() WHERE id = $1",
        }[fate]
        await site.gateway.connection.execute(change, token)
        (settled,) = await site.store.settle([failed(task)])
        assert settled.verdict is Verdict.SETTLED
        assert await site.gateway.balance(user) == (1450, 4550)
        row = await site.gateway.row("tokens", token)
        assert (row and row["remain_quota"]) == {"gone": None, "of somebody else": 10, "soft deleted": 460}[fate]


async def test_main_channel_that_is_gone_keeps_no_money_from_the_user(opened):
    async with opened("main") as site:
        user, channel, task = await one(site)
        await site.gateway.connection.execute("DELETE FROM channels WHERE id = $1", channel)
        (fate,) = await site.store.settle([failed(task)])
        assert fate.verdict is Verdict.SETTLED
        assert (await site.gateway.balance(user))[0] == 1450


async def subscribed(site: Site, total: int, used: int, quotas: list[int]) -> tuple[int, int, list[Task]]:
    user, channel = await site.gateway.user(), await site.gateway.channel()
    plan = await site.gateway.add("user_subscriptions", user_id=user, amount_total=total, amount_used=used)
    saved = json.dumps({"billing_source": "subscription", "subscription_id": plan})
    for quota in quotas:
        await site.gateway.task(user, channel, quota, private_data=saved)
    return user, plan, await site.tasks(channel)


async def used(site: Site, plan: int) -> int:
    return (await site.gateway.row("user_subscriptions", plan))["amount_used"]


async def test_main_refund_goes_back_to_the_subscription_that_paid(opened):
    async with opened("main") as site:
        user, plan, tasks = await subscribed(site, 10_000, 700, [450, 100])
        fates = await site.store.settle([failed(task) for task in tasks])
        assert {fate.verdict for fate in fates} == {Verdict.SETTLED}
        assert await used(site, plan) == 150
        assert await site.gateway.balance(user) == (1000, 4450)
        assert {entry["purse"] for entry in await site.gateway.ledger()} == {"subscription"}


async def test_main_refund_to_a_subscription_moves_no_cached_balance(opened):
    async with opened("main", moves_caches=True) as site:
        user, plan, (by_plan,) = await subscribed(site, 10_000, 700, [450])
        await site.store.settle([failed(by_plan)])
        assert await site.gateway.rows("SELECT kind, payload FROM poller.outbox") == []
        for quota, plan_of in ((100, plan), (30, None)):
            saved = json.dumps({"billing_source": "subscription" if plan_of else "wallet", "subscription_id": plan_of})
            await site.gateway.task(user, by_plan.channel_id, quota, private_data=saved)
        await site.store.settle([failed(task) for task in await site.tasks(by_plan.channel_id)])
        assert await used(site, plan) == 150
        (posted,) = await site.gateway.rows("SELECT kind, payload FROM poller.outbox")
        assert (posted["kind"], json.loads(posted["payload"])) == ("user_cache", {"user_id": user, "delta": 30})


async def test_main_late_refund_into_a_new_period_stops_at_zero(opened):
    async with opened("main") as site:
        _, plan, (task,) = await subscribed(site, 10_000, 100, [450])
        await site.store.settle([failed(task)])
        assert await used(site, plan) == 0


async def test_main_supplement_of_an_unlimited_subscription_is_taken(opened):
    async with opened("main") as site:
        _, plan, (task,) = await subscribed(site, 0, 450, [450])
        await site.store.settle([succeeded(task, 5000)])
        assert await used(site, plan) == 5000


async def test_main_supplement_that_overdraws_a_subscription_is_for_a_person(opened):
    async with opened("main") as site:
        user, plan, tasks = await subscribed(site, 1000, 990, [450, 40])
        fates = await site.store.settle([succeeded(tasks[0], 461), succeeded(tasks[1], 50)])
        assert [(fate.verdict, fate.reason) for fate in fates] == [
            (Verdict.QUARANTINED, "subscription_overdrawn"),
            (Verdict.SETTLED, ""),
        ]
        assert await used(site, plan) == 1000
        assert (await site.gateway.row("tasks", tasks[0].pk))["status"] == "IN_PROGRESS"
        assert await site.gateway.balance(user) == (1000, 5010)


async def test_main_supplements_that_overdraw_only_together_are_settled_as_far_as_they_fit(opened):
    async with opened("main") as site:
        _, plan, tasks = await subscribed(site, 1000, 985, [10, 10])
        fates = await site.store.settle([succeeded(task, 20) for task in tasks])
        assert [(fate.verdict, fate.reason) for fate in fates] == [
            (Verdict.SETTLED, ""),
            (Verdict.QUARANTINED, "subscription_overdrawn"),
        ]
        assert await used(site, plan) == 995


async def test_main_subscription_that_is_gone_is_for_a_person(opened):
    async with opened("main") as site:
        _, plan, (task,) = await subscribed(site, 1000, 990, [450])
        await site.gateway.connection.execute("DELETE FROM user_subscriptions WHERE id = $1", plan)
        (fate,) = await site.store.settle([failed(task)])
        assert (fate.verdict, fate.reason) == (Verdict.QUARANTINED, "subscription_gone")


async def test_main_subscription_of_somebody_else_gets_nothing(opened):
    async with opened("main") as site:
        user, plan, (task,) = await subscribed(site, 10_000, 700, [450])
        await site.gateway.connection.execute("UPDATE user_subscriptions SET user_id = $1", await site.gateway.user())
        (fate,) = await site.store.settle([failed(task)])
        assert (fate.verdict, fate.reason) == (Verdict.QUARANTINED, "subscription_gone")
        assert await used(site, plan) == 700
        assert await site.gateway.balance(user) == (1000, 5000)


async def test_main_refunds_of_one_token_and_channel_are_summed(opened):
    async with opened("main") as site:
        _, token, channel, task = await paid_by_token(site)
        more = (await site.gateway.row("tasks", task.pk))["private_data"]
        await site.gateway.task(task.user_id, channel, 70, private_data=more)
        before = await site.gateway.row("tokens", token), await site.gateway.row("channels", channel)
        await site.store.settle([failed(each) for each in await site.tasks(channel)])
        after = await site.gateway.row("tokens", token), await site.gateway.row("channels", channel)
        assert after[0]["remain_quota"] - before[0]["remain_quota"] == task.reserved + 70
        assert before[0]["used_quota"] - after[0]["used_quota"] == task.reserved + 70
        assert before[1]["used_quota"] - after[1]["used_quota"] == task.reserved + 70


@pytest.mark.parametrize("saved", [None, "null", "[]", '"text"', "{}", '{"token_id": null, "billing_context": 5}'])
async def test_main_task_without_private_data_is_paid_from_the_wallet(opened, saved):
    async with opened("main") as site:
        user, _, task = await one(site, private_data=saved)
        (fate,) = await site.store.settle([failed(task)])
        assert fate.verdict is Verdict.SETTLED
        assert await site.gateway.balance(user) == (1450, 4550)


async def test_main_tells_the_caches_of_the_user_and_the_token(opened):
    async with opened("main", moves_caches=True) as site:
        user, token, _, task = await paid_by_token(site)
        await site.store.settle([failed(task)])
        posted = await site.gateway.rows("SELECT kind, payload FROM poller.outbox ORDER BY kind")
        assert [(row["kind"], json.loads(row["payload"])) for row in posted] == [
            ("token_cache", {"token_id": token, "delta": 450}),
            ("user_cache", {"user_id": user, "delta": 450}),
        ]
        assert len(await logs(site)) == 1


@pytest.mark.parametrize(
    ("profile", "column"),
    [("documented", "submit_time"), ("documented", "private_data"), ("fork", "private_data"), ("main", "token_id")],
)
async def test_nothing_is_settled_by_the_rules_of_a_gateway_that_was_replaced_meanwhile(opened, profile, column):
    """What a subscription paid would else go to the wallet."""
    async with opened(profile) as site:
        user, _, task = await one(site)
        await site.gateway.connection.execute(f"ALTER TABLE tasks ADD COLUMN {column} json")
        with pytest.raises(Misconfigured, match="restart"):
            await site.store.settle([failed(task)])
        assert await site.gateway.balance(user) == (1000, 5000)
        assert await site.gateway.ledger() == []
        await site.gateway.connection.execute(f"ALTER TABLE tasks DROP COLUMN {column}")
        (fate,) = await site.store.settle([failed(task)])
        assert fate.verdict is Verdict.SETTLED


@pytest.mark.parametrize("profile", ["fork", "main"])
async def test_jsonb_columns_serve_as_well_as_json_ones(opened, profile):
    async with opened(profile) as site:
        columns = ["data", "properties"] + (["private_data"] if profile == "main" else [])
        for column in columns:
            await site.gateway.connection.execute(f"ALTER TABLE tasks ALTER {column} TYPE jsonb")
        user, channel, task = await one(site, state="SUBMITTED")
        assert await site.store.advance([(task, Advance(State.IN_PROGRESS, "40%", b'{"a": 1}'))]) == 1
        (fate,) = await site.store.settle([succeeded(task, 41)])
        assert (fate.verdict, fate.refunded) == (Verdict.SETTLED, 409)
        assert (await site.gateway.balance(user))[0] == 1409
        assert await site.tasks(channel) == []
