"""What a person sees at three in the morning, and what a person may do by hand: once, through the ledger, on record."""

from __future__ import annotations

import asyncio
import getpass
import json
from collections.abc import AsyncIterator

import anyio
import pytest

from poller.cli.desk import candidate
from poller.cli.sheet import Sheet, ago, facts
from poller.core.model import Verdict
from poller.postgres.settle import Settler
from tests.cli.conftest import Run
from tests.cli.test_commands import in_thread
from tests.ops.test_server import Console, side_port
from tests.postgres.gateway import Site, failed, open_site, succeeded

CANARY = "sk-hunter2canary"
LIMIT_S = 60


@pytest.fixture
async def site(make_database, open_database, profile_name) -> AsyncIterator[Site]:
    with anyio.fail_after(LIMIT_S):
        made = await open_site(make_database, open_database, profile_name)
    yield made
    await made.gateway.connection.close()


async def seeded(site: Site, *quotas: int) -> tuple[int, int, list]:
    user, channel = await site.gateway.user(), await site.gateway.channel(key=CANARY)
    for quota in quotas:
        await site.gateway.task(user, channel, quota)
    return user, channel, await site.tasks(channel)


async def hold(site: Site, *tasks, reason: str = "unknown_past_deadline") -> None:
    await site.store.quarantine([(task, reason, "upstream says a word in no list: teleporting") for task in tasks])


async def actions(site: Site) -> list[dict]:
    return await site.gateway.rows("SELECT who, action, task_pk, detail FROM poller.operator_action ORDER BY id")


# -- tasks list --


async def test_list_shows_open_tasks_and_with_a_flag_those_in_quarantine(site: Site, poller: Run):
    _, channel, (_, second) = await seeded(site, 450, 30)
    await hold(site, second)
    everything = await in_thread(poller, "tasks", "list", SQL_DSN=site.gateway.dsn)
    assert everything.code == 0, everything.err
    assert "job-1" in everything.out
    held = await in_thread(poller, "tasks", "list", "--quarantined", SQL_DSN=site.gateway.dsn)
    assert "job-1" not in held.out
    (line,) = [line for line in held.out.splitlines() if "job-2" in line]
    assert "unknown_past_deadline: upstream says a word in no list: teleporting" in line
    other = await in_thread(poller, "tasks", "list", "--quarantined", "--channel", "99", SQL_DSN=site.gateway.dsn)
    assert other.out == "tasks in quarantine: none\n"
    told = json.loads(
        (
            await in_thread(
                poller, "tasks", "list", "--quarantined", "--channel", str(channel), "--json", SQL_DSN=site.gateway.dsn
            )
        ).out
    )
    assert [(row["pk"], row["task_id"], row["reserved"]) for row in told] == [(second.pk, "job-2", 30)]
    cut = await in_thread(poller, "tasks", "list", "--limit", "1", SQL_DSN=site.gateway.dsn)
    assert "job-2" not in cut.out
    assert "there are more" in cut.err


async def test_list_explains_each_reason_once_with_what_mends_it(site: Site, poller: Run):
    _, _, (first, second) = await seeded(site, 450, 30)
    await hold(site, first, second, reason="user_gone")
    ran = await in_thread(poller, "tasks", "list", "--quarantined", SQL_DSN=site.gateway.dsn)
    assert ran.out.count("user_gone (money is due and its owner's row is gone from users: restore the row, ") == 1


async def test_list_says_of_an_open_task_why_nobody_can_be_asked(site: Site, poller: Run):
    _, channel, (lost, _) = await seeded(site, 450, 30)
    await site.gateway.connection.execute("UPDATE tasks SET channel_id = 0 WHERE id = $1", lost.pk)
    ran = await in_thread(poller, "tasks", "list", SQL_DSN=site.gateway.dsn)
    assert "nobody can be asked: channel 0: the task names none" in ran.out
    assert ran.out.count("nobody can be asked") == 1
    await site.gateway.connection.execute("DELETE FROM channels")
    ran = await in_thread(poller, "tasks", "list", SQL_DSN=site.gateway.dsn)
    assert f"nobody can be asked: channel {channel}: it has no row" in ran.out
    explained = await in_thread(poller, "task", "job-1", SQL_DSN=site.gateway.dsn)
    assert "asking: nobody: it names no channel; set tasks.channel_id, or settle it by hand" in explained.out


# -- requeue --


async def test_requeue_gives_a_task_back_to_polling_with_nothing_counted_against_it(site: Site, poller: Run):
    _, channel, (task, other) = await seeded(site, 450, 30)
    await site.store.remember(channel, [(task, 2)])
    await hold(site, task)
    assert [each.pk for each in await site.tasks(channel)] == [other.pk]
    ran = await in_thread(poller, "tasks", "requeue", "job-1", SQL_DSN=site.gateway.dsn)
    assert (ran.code, ran.err) == (0, "")
    assert f"requeued: task job-1 (pk {task.pk})" in ran.out
    back, _ = await site.tasks(channel)
    assert (back.pk, back.sightings) == (task.pk, 0)
    (row,) = await actions(site)
    assert row["who"].startswith(f"{getpass.getuser()}@")
    assert row["who"].endswith(" as postgres")
    assert (row["action"], row["task_pk"], row["detail"]) == (
        "requeue",
        task.pk,
        "was held for: unknown_past_deadline",
    )


async def test_requeue_keeps_the_key_that_answered_for_a_task(site: Site, poller: Run):
    _, channel, (task,) = await seeded(site, 450)
    await site.store.remember(channel, [(task, 2)])
    await site.gateway.connection.execute("UPDATE poller.watch SET key_digest = 'abc'")
    await hold(site, task)
    ran = await in_thread(poller, "tasks", "requeue", f"pk:{task.pk}", SQL_DSN=site.gateway.dsn)
    assert (ran.code, ran.err) == (0, "")
    (note,) = await site.gateway.rows("SELECT key_digest, sightings, quarantined_at, reason FROM poller.watch")
    assert note == {"key_digest": "abc", "sightings": 0, "quarantined_at": None, "reason": ""}
    assert (await actions(site))[0]["detail"] == "was held for: unknown_past_deadline"


async def test_requeue_does_what_it_can_and_says_what_it_cannot(site: Site, poller: Run):
    _, channel, (task, _) = await seeded(site, 450, 30)
    await hold(site, task)
    ran = await in_thread(poller, "tasks", "requeue", "job-1", "job-2", "nonsense", SQL_DSN=site.gateway.dsn)
    assert ran.code == 1
    assert "requeued: task job-1" in ran.out
    assert "job-2" in ran.err
    assert "not in quarantine" in ran.err
    assert "task nonsense: not found" in ran.err
    assert len(await site.tasks(channel)) == 2
    assert len(await actions(site)) == 1


async def test_requeue_of_a_settled_task_lets_nothing_be_paid_again(site: Site, poller: Run):
    """The gateway opened it again with another amount: it is for a person, before and after."""
    user, channel, (task,) = await seeded(site, 450)
    await site.store.settle([failed(task)])
    paid = await site.gateway.balance(user)
    await site.gateway.set_state(task.pk, "IN_PROGRESS")
    await site.gateway.connection.execute("UPDATE tasks SET quota = 300")
    (again,) = await site.tasks(channel)
    await site.store.settle([failed(again)])
    ran = await in_thread(poller, "tasks", "requeue", "job-1", SQL_DSN=site.gateway.dsn)
    assert (ran.code, ran.err) == (0, "")
    (again,) = await site.tasks(channel)
    (fate,) = await site.store.settle([failed(again)])
    assert (fate.verdict, fate.reason) == (Verdict.QUARANTINED, "ledger_of_another_amount")
    assert await site.gateway.balance(user) == paid
    assert len(await site.gateway.ledger()) == 1


# -- resolve --


@pytest.mark.parametrize(
    ("options", "charged", "state"),
    [(("--refund",), 0, "FAILURE"), (("--charge", "41"), 41, "SUCCESS"), (("--as-reserved",), 450, "SUCCESS")],
)
async def test_resolve_settles_through_the_ledger_and_is_on_record(
    site: Site, poller: Run, options: tuple[str, ...], charged: int, state: str
):
    user, _, (task,) = await seeded(site, 450)
    start = {user: await site.gateway.balance(user)}
    await hold(site, task)
    command = ("tasks", "resolve", "job-1", *options, "--reason", "ticket 7: worker lost")
    ran = await in_thread(poller, *command, SQL_DSN=site.gateway.dsn)
    assert (ran.code, ran.err) == (0, "")
    assert f"as {state}, reserved=450 charged={charged} refunded={450 - charged}" in ran.out
    (entry,) = await site.gateway.ledger()
    assert (entry["rule"], entry["outcome"], entry["charged"]) == ("operator", state, charged)
    assert "ticket 7: worker lost" in entry["evidence"]
    row = await site.gateway.row("tasks", task.pk)
    assert row["status"] == site.gateway.word(state)
    assert (row["fail_reason"] or "") == ("ticket 7: worker lost" if state == "FAILURE" else "")
    await site.expect_money(start)
    assert await site.gateway.rows("SELECT * FROM poller.watch") == []
    before, after = await actions(site)
    assert (before["action"], after["action"]) == ("resolve", "resolved")
    assert before["detail"].endswith(": ticket 7: worker lost")
    assert after["detail"].startswith("settled reserved=450")
    # Once more: nothing moves.
    again = await in_thread(poller, *command, SQL_DSN=site.gateway.dsn)
    assert again.code == 1
    assert "final already" in again.err
    await site.expect_money(start)


async def test_resolve_of_a_task_that_the_daemon_settles_meanwhile_moves_nothing(
    site: Site, poller: Run, monkeypatch: pytest.MonkeyPatch
):
    user, _, (task,) = await seeded(site, 450)
    start = {user: await site.gateway.balance(user)}
    original = Settler.settle
    await hold(site, task)

    async def late(self, settlements):
        import asyncpg

        connection = await asyncpg.connect(site.gateway.dsn)
        await connection.execute("UPDATE tasks SET status = $2 WHERE id = $1", task.pk, site.gateway.word("SUCCESS"))
        await connection.close()
        return await original(self, settlements)

    monkeypatch.setattr(Settler, "settle", late)
    ran = await in_thread(poller, "tasks", "resolve", "job-1", "--refund", "--reason", "x", SQL_DSN=site.gateway.dsn)
    assert ran.code == 1
    assert "somebody else finished it meanwhile" in ran.err
    await site.expect_money(start)
    assert await site.gateway.ledger() == []
    assert (await actions(site))[-1]["detail"].startswith("final")


async def test_resolve_of_a_task_that_a_lane_settles_meanwhile_pays_it_once(
    site: Site, poller: Run, monkeypatch: pytest.MonkeyPatch
):
    user, _, (task,) = await seeded(site, 450)
    here, original = asyncio.get_running_loop(), Settler.settle

    async def late(self, settlements):
        if asyncio.get_running_loop() is not here:
            of_the_lane = asyncio.run_coroutine_threadsafe(site.store.settle([failed(task)]), here)
            await asyncio.wrap_future(of_the_lane)
        return await original(self, settlements)

    monkeypatch.setattr(Settler, "settle", late)
    ran = await in_thread(poller, "tasks", "resolve", "job-1", "--refund", "--reason", "x", SQL_DSN=site.gateway.dsn)
    assert ran.code == 1
    assert "settled already" in ran.err
    assert (await site.gateway.balance(user))[0] == 1450
    assert [entry["rule"] for entry in await site.gateway.ledger()] == ["failed_word"]


async def test_resolve_of_a_task_that_was_opened_again_pays_nothing(site: Site, poller: Run):
    user, _, (task,) = await seeded(site, 450)
    command = ("tasks", "resolve", "job-1", "--refund", "--reason", "ticket 7")
    assert (await in_thread(poller, *command, SQL_DSN=site.gateway.dsn)).code == 0
    await site.gateway.set_state(task.pk, "IN_PROGRESS")
    await site.gateway.connection.execute("UPDATE tasks SET quota = 450")
    again = await in_thread(poller, *command, SQL_DSN=site.gateway.dsn)
    assert again.code == 1
    assert "had been opened again" in again.err
    assert (await site.gateway.balance(user))[0] == 1450
    assert len(await site.gateway.ledger()) == 1


async def test_resolve_charges_nothing_that_is_surely_a_slip(site: Site, poller: Run):
    user, _, _ = await seeded(site, 450)
    start = {user: await site.gateway.balance(user)}
    command = ("tasks", "resolve", "job-1", "--charge", str(2**31), "--reason", "x")
    ran = await in_thread(poller, *command, SQL_DSN=site.gateway.dsn)
    assert ran.code == 1
    assert "no gateway charges 2147483648 where 450 was reserved; nothing moved" in ran.err
    await site.expect_money(start)
    assert await site.gateway.ledger() == []
    assert await actions(site) == []


async def test_resolve_in_vain_takes_no_task_from_polling(site: Site, poller: Run):
    _, channel, (task,) = await seeded(site, 450)
    await site.gateway.connection.execute("ALTER TABLE users ADD CHECK (quota > 0)")
    command = ("tasks", "resolve", "job-1", "--charge", "4500", "--reason", "x")
    ran = await in_thread(poller, *command, SQL_DSN=site.gateway.dsn)
    assert ran.code == 1
    assert "it cannot be settled as the data stand; nothing moved" in ran.err
    assert [each.pk for each in await site.tasks(channel)] == [task.pk]
    # What was held before still is.
    await hold(site, task)
    assert (await in_thread(poller, *command, SQL_DSN=site.gateway.dsn)).code == 1
    assert await site.tasks(channel) == []


@pytest.mark.parametrize(
    "options",
    [
        ("--refund",),
        ("--reason", "x"),
        ("--refund", "--as-reserved", "--reason", "x"),
        ("--refund", "--charge", "0", "--reason", "x"),
        ("--charge", "-1", "--reason", "x"),
        ("--charge", str(2**63), "--reason", "x"),
        ("--refund", "--reason", " \x00 "),
    ],
)
def test_resolve_without_exactly_one_way_and_a_reason_is_wrong_usage(poller: Run, options: tuple[str, ...]):
    assert poller("tasks", "resolve", "job-1", *options, SQL_DSN="postgres://nowhere:1/x").code == 64


async def test_a_name_of_two_tasks_lists_them_and_does_nothing(site: Site, poller: Run):
    user, channel, (first, second) = await seeded(site, 450, 30)
    await site.gateway.connection.execute("UPDATE tasks SET task_id = 'twin'")
    for command in (("tasks", "resolve", "twin", "--refund", "--reason", "x"), ("task", "twin")):
        ran = await in_thread(poller, *command, SQL_DSN=site.gateway.dsn)
        assert ran.code == 1
        assert f"pk:{first.pk} task_id=twin channel={channel} user={user}" in ran.err
        assert f"pk:{second.pk} task_id=twin" in ran.err
    assert await site.gateway.ledger() == []
    chosen = f"pk:{second.pk}"
    ran = await in_thread(poller, "tasks", "resolve", chosen, "--refund", "--reason", "x", SQL_DSN=site.gateway.dsn)
    assert ran.code == 0
    assert [entry["task_pk"] for entry in await site.gateway.ledger()] == [second.pk]


async def test_a_number_may_be_a_key_or_an_id_and_both_is_ambiguous(site: Site, poller: Run):
    _, _, (first, second) = await seeded(site, 450, 30)
    await site.gateway.connection.execute("UPDATE tasks SET task_id = $1 WHERE id = $2", str(first.pk), second.pk)
    assert (await in_thread(poller, "task", str(first.pk), SQL_DSN=site.gateway.dsn)).code == 1
    assert (await in_thread(poller, "task", str(second.pk), SQL_DSN=site.gateway.dsn)).code == 0
    told = await in_thread(poller, "task", f"pk:{first.pk}", "--json", SQL_DSN=site.gateway.dsn)
    assert json.loads(told.out)["row"]["task_id"] == "job-1"


# -- task --


async def test_an_open_task_is_explained_with_its_url_and_without_its_key(site: Site, poller: Run):
    user, channel, (task,) = await seeded(site, 450)
    ran = await in_thread(poller, "task", "job-1", SQL_DSN=site.gateway.dsn)
    assert ran.code == 0, ran.err
    assert "http://upstream.test/gpt-video/task/list-by-condition" in ran.out
    assert f"user         {user}" in ran.out
    assert "none: no money has moved" in ran.out
    assert "next ask: when a replica takes its lane" in ran.out
    assert CANARY not in ran.out + ran.err
    told = json.loads((await in_thread(poller, "task", "job-1", "--json", SQL_DSN=site.gateway.dsn)).out)
    assert (told["row"]["pk"], told["row"]["channel"], told["row"]["reserved"]) == (task.pk, channel, 450)


async def test_a_held_task_says_why_and_what_can_be_done(site: Site, poller: Run):
    _, _, (task,) = await seeded(site, 450)
    await hold(site, task)
    ran = await in_thread(poller, "task", "job-1", SQL_DSN=site.gateway.dsn)
    assert "held for a person: unknown_past_deadline (past the deadline, and upstream says a word" in ran.out
    assert "teleporting" in ran.out
    assert "poller tasks requeue job-1" in ran.out


async def test_a_settled_task_shows_its_ledger_row_also_when_the_gateway_deleted_it(site: Site, poller: Run):
    _, _, (task,) = await seeded(site, 450)
    await site.store.settle([succeeded(task, 41)])
    ran = await in_thread(poller, "task", "job-1", SQL_DSN=site.gateway.dsn)
    assert "success_word (upstream said a success word)" in ran.out
    assert "said completed" in ran.out
    assert "refunded  " in ran.out
    assert "next ask: never: it is final" in ran.out
    await site.gateway.connection.execute("DELETE FROM tasks")
    ran = await in_thread(poller, "task", f"pk:{task.pk}", SQL_DSN=site.gateway.dsn)
    assert ran.code == 0
    assert "no task" in ran.out
    assert "409" in ran.out


@pytest.mark.parametrize("sign", ["", "-"])
async def test_a_task_whose_time_is_no_time_is_shown_like_any_other(site: Site, poller: Run, sign: str):
    await seeded(site, 450)
    if site.gateway.profile == "documented":
        await site.gateway.connection.execute(f"UPDATE tasks SET created_at = '{sign}infinity'")
    else:
        await site.gateway.connection.execute(f"UPDATE tasks SET submit_time = {sign}9223372036854775807")
    for command in (("task", "job-1"), ("tasks", "list"), ("status",)):
        ran = await in_thread(poller, *command, SQL_DSN=site.gateway.dsn)
        assert (ran.code, ran.err) == (0, "")
        told = await in_thread(poller, *command, "--json", SQL_DSN=site.gateway.dsn)
        json.loads(told.out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.mark.parametrize("profile_name", ["fork", "main"])
async def test_a_submit_time_in_milliseconds_is_shown_for_what_it_is(site: Site, poller: Run):
    await seeded(site, 450)
    await site.gateway.connection.execute("UPDATE tasks SET submit_time = 1700000000123")
    told = json.loads((await in_thread(poller, "task", "job-1", "--json", SQL_DSN=site.gateway.dsn)).out)
    assert told["row"]["submitted"] == "1700000000123: no time in seconds"
    assert told["row"]["deadline"] is None
    (line,) = [
        line
        for line in (await in_thread(poller, "tasks", "list", SQL_DSN=site.gateway.dsn)).out.splitlines()
        if "job-1" in line
    ]
    assert line.split()[-2:] == ["-", "-"]


async def test_a_task_named_by_its_key_is_called_by_it_once(site: Site, poller: Run):
    _, _, (task,) = await seeded(site, 450)
    for name in (f"pk:{task.pk}", str(task.pk)):
        ran = await in_thread(poller, "tasks", "requeue", name, SQL_DSN=site.gateway.dsn)
        assert ran.err == f"task pk:{task.pk}: not in quarantine\n"


@pytest.mark.parametrize("name", ["", "  "])
async def test_an_empty_id_is_said_to_be_empty(site: Site, poller: Run, name: str):
    ran = await in_thread(poller, "task", name, SQL_DSN=site.gateway.dsn)
    assert (ran.code, ran.err) == (1, "poller: an empty ID names no task\n")


async def test_a_task_that_is_not_there_exits_with_1(site: Site, poller: Run):
    for name in ("nothing", "99", "pk:99", "pk:x", "x\x00y", "9" * 40, "pk:-1", "½"):
        ran = await in_thread(poller, "task", name, SQL_DSN=site.gateway.dsn)
        assert (ran.code, ran.out) == (1, ""), name
        assert "not found" in ran.err


async def test_in_profile_main_an_open_task_is_found_by_upstreams_id(make_database, open_database, poller: Run):
    site = await open_site(make_database, open_database, "main")
    user, channel = await site.gateway.user(), await site.gateway.channel()
    private = json.dumps({"key": CANARY, "upstream_task_id": 'up-"1"'})
    pk = await site.gateway.task(user, channel, private_data=private)
    ran = await in_thread(poller, "task", 'up-"1"', SQL_DSN=site.gateway.dsn)
    assert ran.code == 0, ran.err
    assert f"pk           {pk}" in ran.out
    assert CANARY not in ran.out
    assert (await in_thread(poller, "task", CANARY, SQL_DSN=site.gateway.dsn)).code == 1
    await site.gateway.connection.close()


# -- status and check --


async def with_unknown_words(site: Site) -> int:
    _, channel, _ = await seeded(site, 450)
    await site.store.unknown_words(channel, {"teleporting": (3, "up-1"), "succeeded": (1, "up-2")})
    await site.store.unknown_words(channel, {"teleporting": (2, "up-9")})
    return channel


async def test_status_begins_with_what_needs_attention(site: Site, poller: Run):
    _, channel, (first, second, _) = await seeded(site, 450, 30, 10)
    await hold(site, second)
    await site.store.settle([failed(first)])
    await site.gateway.connection.execute(
        "INSERT INTO poller.lane (channel_id, has_work, breaker, breaker_until)"
        " VALUES ($1, true, 'open', now() + interval '10 s'), (77, true, 'closed', NULL)",
        channel,
    )
    await site.gateway.connection.execute(
        "UPDATE poller.lane SET pass_counts = $1 WHERE channel_id = 77", '{"refunds_held": 3, "quota_held": 1350}'
    )
    await in_thread(poller, "pause", "77", SQL_DSN=site.gateway.dsn)
    ran = await in_thread(poller, "status", SQL_DSN=site.gateway.dsn)
    assert ran.code == 0, ran.err
    attention = ran.out.split("open tasks:")[0]
    for line in (
        "no replica is alive",
        f"channel {channel}: its upstream does not answer, breaker open",
        "channel 77 is paused: operator",
        "channel 77: 3 refunds wait, 1350 quota",
        "1 task in quarantine (poller tasks list --quarantined)",
    ):
        assert line in attention
    assert "open tasks: 2 " in ran.out
    assert [line.split() for line in ran.out.splitlines() if line.startswith("FAILURE")] == [
        ["FAILURE", "failed_word", "1", "450", "0"]
    ]
    assert "unknown_past_deadline" in ran.out
    assert all(line == line.rstrip() for line in ran.out.splitlines())
    assert CANARY not in ran.out


async def test_status_of_a_quiet_fleet_says_so(site: Site, poller: Run):
    await site.gateway.connection.execute(
        "INSERT INTO poller.replica (id, seen_until) VALUES ('r1', now() + interval '1 minute')"
    )
    ran = await in_thread(poller, "status", SQL_DSN=site.gateway.dsn)
    assert "needs attention: nothing" in ran.out
    assert "1 replica live" in ran.out
    assert "lanes: none" in ran.out
    assert "settled today: nothing" in ran.out


async def test_status_and_check_suggest_the_lines_that_would_map_unknown_words(site: Site, poller: Run):
    channel = await with_unknown_words(site)
    wanted = (
        "CUSTOM_PASS_STATUS_SUCCESS=completed,finished,success,succeeded",
        "CUSTOM_PASS_STATUS_PROCESSING=pending,processing,running,submitted,teleporting",
        f"channel {channel} alone: custompass_status_mapping ="
        ' {"success": ["succeeded"], "processing": ["teleporting"]}',
    )
    ran = await in_thread(poller, "status", SQL_DSN=site.gateway.dsn)
    assert "2 status words in no list" in ran.out
    (line,) = [line for line in ran.out.splitlines() if "teleporting  " in line]
    assert line.split()[:3] == [str(channel), "teleporting", "5"]
    assert line.split()[-2:] == ["up-9", "processing"]
    checked = await in_thread(poller, "check", SQL_DSN=site.gateway.dsn)
    assert checked.code == 0
    as_json = json.loads((await in_thread(poller, "check", "--json", SQL_DSN=site.gateway.dsn)).out)
    assert as_json["suggestions"] == list(wanted)
    for line in wanted:
        assert f"  {line}\n" in ran.out
        assert f"suggestion: {line}\n" in checked.err


async def test_a_suggestion_that_was_followed_is_not_made_again(site: Site, poller: Run):
    channel = await with_unknown_words(site)
    column = "custompass_status_mapping" if site.gateway.profile == "documented" else "settings"
    mapping = {"success": ["succeeded"]}
    text = json.dumps(mapping if site.gateway.profile == "documented" else {"custompass_status_mapping": mapping})
    await site.gateway.connection.execute(f"UPDATE channels SET {column} = $2 WHERE id = $1", channel, text)
    words = {"CUSTOM_PASS_STATUS_PROCESSING": "processing,pending,running,submitted,teleporting"}
    told = json.loads((await in_thread(poller, "status", "--json", SQL_DSN=site.gateway.dsn)).out)
    assert [row["word"] for row in told["unknown_words"]] == ["teleporting"]
    assert told["suggestions"][-1].endswith('{"success": ["succeeded"], "processing": ["teleporting"]}')
    told = json.loads((await in_thread(poller, "status", "--json", SQL_DSN=site.gateway.dsn, **words)).out)
    assert (told["unknown_words"], told["words_mapped_since"], told["suggestions"]) == ([], 2, [])


async def test_check_is_not_disturbed_by_a_database_without_our_schema(make_database, poller: Run):
    ran = await in_thread(poller, "check", SQL_DSN=await make_database("main", migrated=False))
    assert ran.code == 0
    assert "suggestion" not in ran.err


async def test_check_waits_no_longer_than_three_seconds_for_a_database_that_says_nothing(poller: Run):
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.listeners[0].extra(anyio.abc.SocketAttribute.local_port)
    with anyio.fail_after(LIMIT_S):
        started = anyio.current_time()
        ran = await in_thread(poller, "check", SQL_DSN=f"postgres://me@127.0.0.1:{port}/x")
        assert anyio.current_time() - started < 8
    assert ran.code == 0
    await listener.aclose()


async def test_status_of_a_replica_comes_from_its_side_port(poller: Run):
    class Told(Console):
        async def status(self) -> dict:
            lane = {"channel_id": 4, "has_work": True, "is_held": True, "holder": "r1", "is_paused": True}
            lane |= {"pause_reason": "second_writer", "breaker": "closed", "concurrency": 9, "unasked_s": 7.0}
            return {"replica": "r1", "checks": {"database": "network"}, "fleet": [lane | {"pass_counts": {"asked": 5}}]}

    async with side_port(Told()) as (client, _):
        url = f"http://127.0.0.1:{client.base_url.port}"
        ran = await in_thread(poller, "status", "--url", url)
        assert ran.code == 0, ran.err
        assert "replica r1" in ran.out
        assert "database: network" in ran.out
        assert "channel 4 is paused: second_writer" in ran.out
        told = json.loads((await in_thread(poller, "status", "--url", url, "--json")).out)
        assert told["lanes"][0]["channel_id"] == 4
        assert (await in_thread(poller, "status", "--url", url + "/nowhere")).code == 69


# -- how it is printed --


def test_a_plain_table_is_aligned_and_cuts_nothing(capsys: pytest.CaptureFixture[str]):
    from poller.cli.sheet import show

    show("head", Sheet("t", ("n>", "text"), [(5, "x" * 200), (1234, None)]), Sheet("u", ("a",), []))
    assert capsys.readouterr().out == f"head\n\nt:\n   n  text\n   5  {'x' * 200}\n1234\n\nu: none\n"


def test_on_a_terminal_the_same_is_a_rich_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    from poller.cli.sheet import show

    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    show("head [x]", Sheet("t", ("n>", "text"), [(5, "[red]y[/red]")]), Sheet("u", ("a",), []))
    out = capsys.readouterr().out
    assert "head [x]" in out
    assert "[red]y[/red]" in out
    assert out.endswith(": none\n")


@pytest.mark.parametrize("is_terminal", [True, False])
def test_what_upstreams_and_users_wrote_does_not_steer_the_terminal(
    is_terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    from poller.cli.sheet import show

    monkeypatch.setattr("sys.stdout.isatty", lambda: is_terminal)
    odd = "job\x1b]0;owned\x07\x9b2J\u202e1\r\nsettled"
    show(f"task {odd}", Sheet("t", ("task",), [(odd,)]))
    out = capsys.readouterr().out
    assert "\x1b]" not in out
    assert not set("\x07\x9b\u202e\r") & set(out)
    assert "job\\x1b]0;owned" in out
    assert "\x1b" not in candidate(
        {"pk": 1, "task_id": odd, "channel_id": 1, "user_id": 1, "status": odd, "submitted_s": 0}
    )


def test_facts_leave_out_what_is_not_there():
    assert facts({"a": 1, "long name": "x", "b": None, "c": ""}) == ["a          1", "long name  x"]
    assert ago(-5) == "0s"


# -- a ledger that lost its rows --


async def test_a_lost_ledger_is_gone_without_only_when_somebody_says_so_on_record(site: Site, poller: Run):
    _, channel, _ = await seeded(site, 450)
    await site.store.settle([failed(task) for task in await site.tasks(channel)])
    await site.gateway.connection.execute(
        "UPDATE poller.control SET ledger_pk = task_pk, ledger_at = settled_at FROM poller.ledger"
    )
    accept = ("resume", "--accept-lost-ledger")
    early = await in_thread(poller, *accept, SQL_DSN=site.gateway.dsn)
    assert (early.code, early.out) == (0, "nothing to accept: the ledger holds what it held\n")
    await site.gateway.connection.execute("TRUNCATE poller.ledger")
    once = await in_thread(poller, "run", "--once", SQL_DSN=site.gateway.dsn)
    assert once.code == 69
    assert "ledger_missing" in once.err
    assert "poller resume --accept-lost-ledger" in once.err
    assert (await in_thread(poller, *accept, SQL_DSN=site.gateway.dsn)).out == "accepted: tasks are settled again\n"
    assert [act["action"] for act in await actions(site)] == ["ledger_loss_accepted"]
    assert (await in_thread(poller, "run", "--once", SQL_DSN=site.gateway.dsn)).code == 0


# -- tasks that name no channel --


@pytest.mark.parametrize("profile_name", ["fork", "main"])
async def test_a_task_without_a_channel_is_shown_and_can_be_settled_by_hand(site: Site, poller: Run):
    _, _, (task,) = await seeded(site, 450)
    await site.gateway.connection.execute("UPDATE tasks SET channel_id = NULL")
    shown = await in_thread(poller, "status", SQL_DSN=site.gateway.dsn)
    assert shown.code == 0, shown.err
    assert "1 open task names no channel: nobody can be asked" in shown.out
    resolve = ("tasks", "resolve", f"pk:{task.pk}", "--refund", "--reason", "no channel")
    done = await in_thread(poller, *resolve, SQL_DSN=site.gateway.dsn)
    assert done.code == 0, done.err
    (row,) = await site.gateway.ledger()
    assert (row["task_pk"], row["channel_id"], row["refunded"]) == (task.pk, 0, 450)
