"""Money that is not where it should be: found on all profiles, given back once, and never on a doubt."""

from __future__ import annotations

from datetime import timedelta

import anyio
import asyncpg
import pytest

from poller.core.model import Verdict
from poller.core.reconcile import Class
from poller.postgres.logs_elsewhere import LogCourier, LogDatabase
from poller.postgres.outbox import Outbox
from poller.postgres.statements import load
from tests.postgres.books import START, Books, kinds
from tests.postgres.gateway import failed, open_site, succeeded

LIMIT_S = 120.0
DAY = 24 * 60
"""Minutes."""


async def test_a_task_that_ended_before_this_daemon_and_was_never_refunded_is_owed(books: Books):
    with anyio.fail_after(LIMIT_S):
        user, channel = await books.gateway.user(), await books.gateway.channel()
        owed = await books.finished(user, channel)
        refunded = await books.finished(user, channel, 100, minute=1)
        await books.refunded(user, refunded, 2, 100)
        found = await books.owed()
    assert kinds(found) == {owed: Class.OWED}
    assert found[owed].quota == 450


async def test_open_tasks_free_ones_and_those_of_others_are_no_candidates(books: Books):
    with anyio.fail_after(LIMIT_S):
        user, channel = await books.gateway.user(), await books.gateway.channel()
        await books.gateway.task(user, channel)
        await books.finished(user, channel, 0)
        await books.finished(user, channel, platform="suno")
        assert await books.owed() == {}
        owed = await books.finished(user, channel, 77)
        assert kinds(await books.owed()) == {owed: Class.OWED}


async def test_a_task_without_an_id_is_owed_only_when_a_person_says_so(books: Books):
    """It failed while it was submitted, perhaps, and the submitter gave the money back without a name for it."""
    with anyio.fail_after(LIMIT_S):
        user, channel = await books.gateway.user(), await books.gateway.channel()
        pk = await books.finished(user, channel, task_id="")
        certain = books.profile == "documented"
        assert kinds(await books.owed()) == {pk: Class.OWED if certain else Class.AMBIGUOUS}
        assert kinds(await books.owed(is_sure=True)) == {pk: Class.OWED}


ODD = ["a&b<c>", 'q"q', "back\\slash", "tab\there", "nul\\u0000", "é 😀", "a\u2028b", "\x7f", "x, y"]


@pytest.mark.parametrize("odd", ODD)
async def test_a_refund_is_known_by_an_odd_task_id_too(books: Books, odd: str):
    with anyio.fail_after(LIMIT_S):
        user, channel = await books.gateway.user(), await books.gateway.channel()
        pk = await books.finished(user, channel, task_id=odd)
        await books.refunded(user, pk, 5)
        await books.finished(user, channel, 7)
        assert pk not in await books.owed()


async def test_log_rows_that_no_gateway_writes_keep_nobody_from_looking(books: Books):
    with anyio.fail_after(LIMIT_S):
        for other in (
            '{"task_id":"\\u0000"}',
            '{"task_id":"\\ud800"}',
            '{"task_id":"a\\x"}',
            '{"task_id":"\\',
            "{",
            "",
        ):
            await books.odd_line(other)
        pk = await books.finished(await books.gateway.user(), await books.gateway.channel())
        assert kinds(await books.owed()) == {pk: Class.OWED}


async def test_a_log_row_that_is_no_refund_explains_nothing(books: Books):
    """Of the same user, amount and task; but it says that something was consumed."""
    with anyio.fail_after(LIMIT_S):
        pk = await books.finished(user := await books.gateway.user(), await books.gateway.channel())
        await books.refunded(user, pk, 5)
        consumption = "'consume'" if books.profile == "documented" else "2"
        await books.logs.execute(f"UPDATE logs SET type = {consumption} WHERE user_id = $1", user)
        assert kinds(await books.owed()) == {pk: Class.OWED}


async def test_what_was_refunded_before_a_task_was_submitted_was_not_for_it(books: Books):
    with anyio.fail_after(LIMIT_S):
        user, channel = await books.gateway.user(), await books.gateway.channel()
        pk = await books.finished(user, channel, minute=DAY + 10)
        await books.refunded(user, pk, 5)
        assert kinds(await books.owed()) == {pk: Class.OWED}


async def test_a_refund_by_a_clock_that_is_slow_is_still_its_own(books: Books):
    """A task's times and its refund's may come of two nodes, and of two time zones."""
    with anyio.fail_after(LIMIT_S):
        channel = await books.gateway.channel()
        for slow in (1, 8 * 60):
            user = await books.gateway.user()
            pk = await books.finished(user, channel, minute=10)
            await books.refunded(user, pk, 10 - slow)
        assert await books.owed() == {}
        assert await books.owed(since_s=START.timestamp()) == {}


async def test_a_task_whose_time_is_no_time_is_refunded_whenever_that_was(books: Books):
    user, channel = await books.gateway.user(), await books.gateway.channel()
    far = START.timestamp() + 365 * 86400 * 50
    if books.profile == "documented":
        odd = [{"created_at": START + timedelta(days=365 * 50)}]
    else:
        odd = [{"submit_time": int(time)} for time in (far, START.timestamp() * 1e3, START.timestamp() * 1e6, -1e15)]
    with anyio.fail_after(LIMIT_S):
        for times in odd:
            pk = await books.finished(user, channel, **times)
            await books.refunded(user, pk, 5)
        assert await books.owed() == {}


async def test_one_refund_for_two_tasks_that_look_alike_is_for_a_person(books: Books):
    with anyio.fail_after(LIMIT_S):
        user, channel = await books.gateway.user(), await books.gateway.channel()
        first = await books.finished(user, channel, minute=0, task_id="same")
        await books.finished(user, channel, minute=1, task_id="same")
        later = await books.finished(user, channel, minute=DAY + 9, task_id="same")
        await books.refunded(user, first, 5)
        found = await books.owed()
        assert kinds(found) == {first: Class.AMBIGUOUS, later: Class.OWED}
        assert found[first].detail == "1 refund since then for 2 tasks that look alike"
        (fate,) = await books.reconciler().repair(list(found.values()))
        assert (fate.task.pk, fate.verdict) == (later, Verdict.SETTLED)
        assert (await books.gateway.balance(user))[0] == 1450


async def test_a_refund_of_ours_explains_no_other_task(books: Books):
    """The log row that we wrote for one task is not taken for the refund of another that looks alike."""
    with anyio.fail_after(LIMIT_S):
        user, channel = await books.gateway.user(), await books.gateway.channel()
        owed = await books.finished(user, channel, task_id="same")
        await books.gateway.task(user, channel, task_id="same")
        await books.site.store.settle([failed(task) for task in await books.site.tasks(channel)])
        assert kinds(await books.owed()) == {owed: Class.OWED}


async def test_what_the_logs_cannot_tell_of_is_owed_only_when_a_person_says_so(books: Books):
    """Log rows were deleted, or these are old ones: the gateway writes its own to another database by now."""
    with anyio.fail_after(LIMIT_S):
        user, channel = await books.gateway.user(), await books.gateway.channel()
        await books.logs.execute("DELETE FROM logs")
        early = await books.finished(user, channel, 1)
        told = await books.finished(user, channel, 2, minute=DAY)
        late = await books.finished(user, channel, 3, minute=2 * DAY)
        nobody = dict.fromkeys((early, told, late), Class.AMBIGUOUS)
        assert kinds(await books.owed()) == nobody
        await books.gateway.task(user, channel)
        await books.site.store.settle([failed(task) for task in await books.site.tasks(channel)])
        assert kinds(await books.owed()) == nobody
        await books.vouched(since=timedelta(hours=12), until=timedelta(hours=36))
        assert kinds(await books.owed()) == nobody | {told: Class.OWED}
        assert kinds(await books.owed(is_sure=True)) == dict.fromkeys((early, told, late), Class.OWED)


async def test_since_leaves_out_what_is_older(books: Books):
    with anyio.fail_after(LIMIT_S):
        user, channel = await books.gateway.user(), await books.gateway.channel()
        await books.finished(user, channel, minute=0)
        late = await books.finished(user, channel, minute=30)
        since_s = (START + timedelta(minutes=30)).timestamp()
        assert kinds(await books.owed(since_s=since_s)) == {late: Class.OWED}


async def test_a_log_row_in_microseconds_is_read_like_any_other(books: Books):
    if books.profile == "documented":
        pytest.skip("its times are no numbers")
    with anyio.fail_after(LIMIT_S):
        user, channel = await books.gateway.user(), await books.gateway.channel()
        await books.refunded(user, await books.finished(user, channel), minute=10)
        owed = await books.finished(user, channel)
        await books.vouched()
        await books.logs.execute("UPDATE logs SET created_at = created_at * 1000000 WHERE user_id = $1", user)
        assert kinds(await books.owed()) == {owed: Class.OWED}


async def test_what_is_owed_is_given_back_as_settling_would_have(books: Books):
    gateway = books.gateway
    with anyio.fail_after(LIMIT_S):
        user, channel = await gateway.user(), await gateway.channel()
        more = {}
        if books.profile == "main":
            token = await gateway.add("tokens", user_id=user, key="k", name="tok", remain_quota=10, used_quota=900)
            more["private_data"] = await gateway.private(token_id=token)
        pk = await books.finished(user, channel, fail_reason="no such video", **more)
        found = await books.owed()
        (fate,) = await books.reconciler().repair(list(found.values()))
        assert (fate.verdict, fate.refunded) == (Verdict.SETTLED, 450)
        (row,) = await gateway.ledger()
        assert (row["task_pk"], row["rule"], row["outcome"]) == (pk, "reconciled", "FAILURE")
        assert (row["reserved"], row["charged"], row["refunded"]) == (450, 0, 450)
        assert await gateway.balance(user) == (1450, 5000 if books.profile == "fork" else 4550)
        task = await gateway.row("tasks", pk)
        assert task["quota"] == {"documented": 0, "fork": 450, "main": 0}[books.profile]
        (line,) = await gateway.rows("SELECT * FROM logs WHERE user_id <> 0")
        assert line["type"] == {"documented": "refund", "fork": 4, "main": 6}[books.profile]
        assert "no such video" in (line["content"] if books.profile != "main" else line["other"])
        if books.profile == "main":
            moved = await gateway.row("tokens", token)
            assert (moved["remain_quota"], moved["used_quota"]) == (460, 450)
            assert (await gateway.row("channels", channel))["used_quota"] == 90_000 - 450
        assert await books.owed() == {}
        assert await books.contradicted() == {}


async def test_a_completed_task_of_the_guide_gets_back_what_it_did_not_use_when_a_person_says_so(
    make_database, open_database
):
    """The guide's own repair SQL may have paid it, and writes nothing down."""
    site = await open_site(make_database, open_database, "documented")
    books = Books(site, site.gateway.dsn)
    with anyio.fail_after(LIMIT_S):
        user, channel = await books.gateway.user(), await books.gateway.channel()
        pk = await books.finished(user, channel, 450, used=41)
        odd = await books.finished(user, channel, 450, used=41, status="failed")
        assert set(kinds(await books.owed()).values()) == {Class.AMBIGUOUS}
        found = await books.owed(is_sure=True)
        assert {pk: (each.kind, each.quota) for pk, each in found.items()} == {
            pk: (Class.OWED, 409),
            odd: (Class.AMBIGUOUS, 409),
        }
        await books.reconciler().repair(list(found.values()))
        assert await books.gateway.balance(user) == (1409, 5000 - 409)
        row = await books.gateway.row("tasks", pk)
        assert (row["quota"], row["used_quota"], row["status"]) == (41, 41, "completed")
        (entry,) = await books.gateway.ledger()
        assert (entry["outcome"], entry["reserved"], entry["charged"]) == ("SUCCESS", 450, 41)
        await site.gateway.connection.close()


async def test_repairs_run_twice_and_at_once_move_nothing_twice(books: Books):
    with anyio.fail_after(LIMIT_S):
        channel, users = await books.gateway.channel(), []
        for number in range(120):
            users.append(await books.gateway.user())
            await books.finished(users[-1], channel, minute=number)
        found = list((await books.owed()).values())
        assert len(found) == 120
        fates = []

        async def repair() -> None:
            fates.extend(await books.reconciler().repair(found))

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(repair)
        await repair()
        verdicts = [fate.verdict for fate in fates]
        assert verdicts.count(Verdict.SETTLED) == 120
        assert verdicts.count(Verdict.ALREADY) == 360
        assert [(await books.gateway.balance(user))[0] for user in users] == [1450] * 120
        assert len(await books.gateway.rows("SELECT * FROM logs WHERE user_id <> 0")) == 120


async def test_a_row_that_changed_since_it_was_read_is_not_paid(books: Books):
    with anyio.fail_after(LIMIT_S):
        user, other, channel = await books.gateway.user(), await books.gateway.user(), await books.gateway.channel()
        pks = [await books.finished(user, channel, minute=minute) for minute in range(3)]
        found = list((await books.owed()).values())
        await books.gateway.connection.execute("UPDATE tasks SET user_id = $2 WHERE id = $1", pks[0], other)
        await books.gateway.set_state(pks[1], "IN_PROGRESS")
        await books.gateway.connection.execute("UPDATE tasks SET quota = 0 WHERE id = $1", pks[2])
        fates = {fate.task.pk: fate.verdict for fate in await books.reconciler().repair(found)}
        assert fates == {pks[0]: Verdict.MOVED, pks[1]: Verdict.FINAL, pks[2]: Verdict.FINAL}
        assert await books.gateway.balance(user) == (1000, 5000)
        assert await books.gateway.ledger() == []


async def test_whoever_finished_a_task_just_now_is_given_time_to_refund_it(books: Books):
    column, now, then = {
        "documented": ("updated_at", "now() - interval '9 minutes'", "now() - interval '11 minutes'"),
        "fork": ("updated_at", "extract(epoch FROM now()) - 540", "extract(epoch FROM now()) - 660"),
        "main": ("finish_time", "extract(epoch FROM now()) - 540", "extract(epoch FROM now()) - 660"),
    }[books.profile]
    with anyio.fail_after(LIMIT_S):
        user, channel = await books.gateway.user(), await books.gateway.channel()
        pk = await books.finished(user, channel)
        owed = list((await books.owed()).values())
        await books.gateway.connection.execute(f"UPDATE tasks SET {column} = {now}")
        assert kinds(await books.owed()) == {pk: Class.AMBIGUOUS}
        (fate,) = await books.reconciler().repair(owed)
        assert fate.verdict is Verdict.FINAL
        assert await books.gateway.balance(user) == (1000, 5000)
        await books.gateway.connection.execute(f"UPDATE tasks SET {column} = {then}")
        (fate,) = await books.reconciler().repair(list((await books.owed()).values()))
        assert (fate.verdict, (await books.gateway.balance(user))[0]) == (Verdict.SETTLED, 1450)


async def test_a_task_whose_user_is_gone_is_not_paid_and_not_put_aside(books: Books):
    with anyio.fail_after(LIMIT_S):
        channel = await books.gateway.channel()
        await books.finished(999, channel)
        (fate,) = await books.reconciler().repair(list((await books.owed()).values()))
        assert (fate.verdict, fate.reason) == (Verdict.QUARANTINED, "user_gone")
        assert await books.gateway.rows("SELECT * FROM poller.watch") == []


async def test_the_daemon_does_not_touch_what_a_repair_settled(books: Books):
    with anyio.fail_after(LIMIT_S):
        user, channel = await books.gateway.user(), await books.gateway.channel()
        pk = await books.finished(user, channel)
        await books.reconciler().repair(list((await books.owed()).values()))
        await books.gateway.set_state(pk, "IN_PROGRESS")
        (task,) = await books.site.tasks(channel)
        (fate,) = await books.site.store.settle([failed(task)])
        assert fate.verdict is Verdict.REOPENED
        assert (await books.gateway.balance(user))[0] == 1450


async def aged(books: Books, pk: int) -> None:
    """Let *pk* be finished long enough ago for a repair."""
    then = "now() - interval '1 hour'" if books.profile == "documented" else "extract(epoch FROM now()) - 3600"
    columns = ("updated_at",) if books.profile == "documented" else ("updated_at", "finish_time")
    for column in columns:
        await books.gateway.connection.execute(f"UPDATE tasks SET {column} = {then} WHERE id = $1", pk)


async def test_what_the_daemon_settled_is_never_owed_again(books: Books):
    with anyio.fail_after(LIMIT_S):
        user, channel = await books.gateway.user(), await books.gateway.channel()
        pk = await books.gateway.task(user, channel)
        await books.site.store.settle([failed(task) for task in await books.site.tasks(channel)])
        await aged(books, pk)
        other = await books.gateway.user()
        owed = await books.finished(other, channel)
        found = await books.owed(is_sure=True)
        await books.reconciler().repair(list(found.values()))
        assert kinds(found) == {owed: Class.OWED}
        assert [(await books.gateway.balance(each))[0] for each in (user, other)] == [1450, 1450]


async def test_a_repair_of_what_the_daemon_settled_meanwhile_pays_nothing(books: Books):
    with anyio.fail_after(LIMIT_S):
        user, channel = await books.gateway.user(), await books.gateway.channel()
        pk = await books.finished(user, channel)
        found = list((await books.owed()).values())
        await books.gateway.set_state(pk, "IN_PROGRESS")
        await books.site.store.settle([failed(task) for task in await books.site.tasks(channel)])
        await aged(books, pk)
        (fate,) = await books.reconciler().repair(found)
        assert fate.verdict is Verdict.ALREADY
        assert (await books.gateway.balance(user))[0] == 1450


# -- the ledger ------------------------------------------------------------------------------------------------------


async def settled(books: Books, count: int) -> list[int]:
    channel = await books.gateway.channel()
    for _ in range(count):
        await books.gateway.task(await books.gateway.user(), channel)
    tasks = await books.site.tasks(channel)
    await books.site.store.settle([failed(task) for task in tasks])
    return [task.pk for task in tasks]


async def test_a_ledger_that_all_tables_agree_with_is_clean(books: Books):
    with anyio.fail_after(LIMIT_S):
        await settled(books, 5)
        channel = await books.gateway.channel()
        for _ in range(2):
            await books.gateway.task(await books.gateway.user(), channel)
        more, less = await books.site.tasks(channel)
        await books.site.store.settle([succeeded(more, 500), succeeded(less, 41)])
        assert await books.contradicted() == {}


async def test_each_contradiction_of_a_settlement_is_told_by_its_name(books: Books):
    run = books.gateway.connection.execute
    with anyio.fail_after(LIMIT_S):
        same, opened, other, amount, foreign, unlogged, gone = await settled(books, 7)
        await books.gateway.set_state(opened, "IN_PROGRESS")
        await books.gateway.set_state(other, "SUCCESS")
        await run("UPDATE tasks SET quota = 7 WHERE id = $1", amount)
        await run("UPDATE tasks SET task_id = 'another' WHERE id = $1", foreign)
        user = (await books.gateway.row("tasks", unlogged))["user_id"]
        await run("DELETE FROM logs WHERE user_id = $1", user)
        await run("DELETE FROM tasks WHERE id = $1", gone)
        assert await books.contradicted() == {
            opened: Class.OPEN_AGAIN,
            other: Class.OTHER_OUTCOME,
            amount: Class.OTHER_AMOUNT,
            foreign: Class.OTHER_TASK,
            unlogged: Class.NO_LOG,
        }
        assert same not in await books.contradicted()


async def test_a_gateway_that_went_back_to_a_backup_without_the_ledger_is_told_of(books: Books):
    """Its tasks are closed again, as after any whole-row save; that the money went back too, only the logs can tell."""
    gateway, run = books.gateway, books.gateway.connection.execute
    with anyio.fail_after(LIMIT_S):
        user, channel = await gateway.user(), await gateway.channel()
        pk = await gateway.task(user, channel)
        tables = ("users", "tasks", "logs")
        for table in tables:
            await run(f"CREATE TABLE backup_{table} AS TABLE {table}")
        settlements = [failed(task) for task in await books.site.tasks(channel)]
        await books.site.store.settle(settlements)
        for table in tables:
            await run(f"TRUNCATE {table}; INSERT INTO {table} TABLE backup_{table}")
        (fate,) = await books.site.store.settle(settlements)
        assert fate.verdict is Verdict.REOPENED
        assert await gateway.balance(user) == (1000, 5000)
        assert await books.contradicted() == {pk: Class.NO_LOG}


async def test_lines_that_were_deleted_with_their_time_are_not_missed(books: Books):
    with anyio.fail_after(LIMIT_S):
        (pk,) = await settled(books, 1)
        await books.gateway.connection.execute("DELETE FROM logs")
        assert await books.contradicted() == {pk: Class.NO_LOG}
        await books.gateway.connection.execute("UPDATE poller.ledger SET settled_at = now() - interval '1 day'")
        assert await books.contradicted() == {}


async def test_with_logs_elsewhere_refunds_are_read_there_and_repairs_are_logged_there(
    make_database, open_database, profile_name
):
    site = await open_site(make_database, open_database, profile_name, logs_elsewhere=True)
    books = Books(site, site.gateway.dsn)
    log_dsn = await make_database(profile_name, migrated=False)
    books.logs = await asyncpg.connect(log_dsn)
    await books.vouched()
    log_database = await open_database(log_dsn)

    async def logs_of():
        return log_database

    courier = LogCourier(LogDatabase(logs_of), load(profile_name))
    outbox = Outbox(site.database, load(profile_name))

    async def deliver() -> None:
        await courier.deliver(await outbox.claim("log", 100, 0.0, await courier.ready()))

    with anyio.fail_after(LIMIT_S):
        user, channel = await books.gateway.user(), await books.gateway.channel()
        owed = await books.finished(user, channel, task_id="same")
        refunded = await books.finished(user, channel, 100, minute=1)
        await books.refunded(user, refunded, 2, 100)
        await books.gateway.task(user, channel, task_id="same")
        await site.store.settle([failed(task) for task in await site.tasks(channel)])
        await deliver()
        reconciler = books.reconciler(logs_of=logs_of)
        found = await books.owed(reconciler)
        assert kinds(found) == {owed: Class.OWED}
        await reconciler.repair(list(found.values()))
        await deliver()
        assert await books.logs.fetchval("SELECT count(*) FROM logs WHERE user_id <> 0") == 3
        assert await site.gateway.rows("SELECT * FROM logs") == []
        assert await books.owed(reconciler) == {}
        await books.logs.close()
        await site.gateway.connection.close()
