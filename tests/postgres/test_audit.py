"""The running audit: what it finds, what it does not take for drift, and what a look costs."""

from __future__ import annotations

import time

import anyio
import pytest

from poller.core.model import Verdict
from poller.postgres.audit import Audit, Auditor, Drift
from poller.postgres.statements import load
from poller.vigil import Vigil
from tests.ops.things import recorder
from tests.postgres.gateway import Site, failed, open_site, succeeded

LIMIT_S = 60


@pytest.fixture
async def site(make_database, open_database, profile_name):
    with anyio.fail_after(LIMIT_S):
        made = await open_site(make_database, open_database, profile_name)
    yield made
    await made.gateway.connection.close()


def auditor(site: Site, **more) -> Auditor:
    values = {"replica_id": "replica-1", "grace_s": 0.0, "settling_s": -1.0} | more
    return Auditor(site.database, load(site.gateway.profile), **values)


async def settled(site: Site, *quotas: int) -> list[int]:
    """Tasks of one user, each with its quota reserved; the even ones fail, the odd ones cost 7."""
    user, channel = await site.gateway.user(100_000), await site.gateway.channel()
    for quota in quotas:
        await site.gateway.task(user, channel, quota)
    tasks = await site.tasks(channel)
    fates = await site.store.settle(
        [succeeded(task, 7) if place % 2 else failed(task) for place, task in enumerate(tasks)]
    )
    assert {fate.verdict for fate in fates} == {Verdict.SETTLED}
    return [task.pk for task in tasks]


async def change(site: Site, pk: int, **values: object) -> None:
    for name, value in values.items():
        await site.gateway.connection.execute(f"UPDATE tasks SET {name} = $2 WHERE id = $1", pk, value)


async def test_what_was_settled_and_left_alone_is_no_drift(site):
    await settled(site, 450, 30, 7, 0)
    audit = await auditor(site).look()
    assert audit == Audit(0, (), 4, is_behind=False)


async def test_settlements_of_nothing_are_no_drift(site):
    assert await auditor(site).look() == Audit(0, (), 0, is_behind=False)


async def test_every_way_in_which_a_row_can_differ_is_named_with_its_amount(site):
    fork = site.gateway.profile == "fork"
    pks = await settled(site, 450, 30, 60, 80, 90, 10)
    await site.gateway.set_state(pks[0], "IN_PROGRESS")
    await site.gateway.set_state(pks[1], "FAILURE")
    await change(site, pks[2], quota=99)
    await change(site, pks[3], task_id="other")
    # One user's only refund of 90 disappears from the log.
    mark = {
        "documented": "type = 'refund' AND quota = 90",
        "fork": "content LIKE '%job-5,%'",
        "main": "type = 6 AND quota = 90",
    }[site.gateway.profile]
    assert await site.gateway.connection.execute(f"DELETE FROM logs WHERE {mark}") == "DELETE 1"
    audit = await auditor(site).look()
    # A failed row of the fork keeps what was reserved.
    amount = 39 if fork else 99
    assert audit.fresh == (
        Drift(pks[0], "open_again", 450),
        Drift(pks[1], "other_outcome", 30),
        Drift(pks[2], "other_amount", amount),
        Drift(pks[3], "other_task", 80),
        Drift(pks[4], "no_log", 90),
    )
    assert audit.drift_quota == 450 + 30 + amount + 80 + 90


async def test_a_missing_log_is_no_drift_where_logs_are_elsewhere(site):
    await settled(site, 450)
    await site.gateway.connection.execute("DELETE FROM logs")
    assert (await auditor(site, logs_elsewhere=True).look()).fresh == ()
    assert len((await auditor(site).look()).fresh) == 1


async def test_a_row_that_the_gateway_deleted_is_no_drift(site):
    pks = await settled(site, 450)
    await site.gateway.connection.execute("DELETE FROM tasks WHERE id = $1", pks[0])
    assert (await auditor(site).look()).fresh == ()


async def test_a_reopened_row_that_a_pass_puts_back_in_time_is_no_drift(site):
    (pk,) = await settled(site, 450)
    await site.gateway.set_state(pk, "IN_PROGRESS")
    looking = auditor(site, grace_s=3600.0)
    assert (await looking.look()).drift_quota == 0
    (task,) = await site.tasks((await site.gateway.row("tasks", pk))["channel_id"])
    (fate,) = await site.store.settle([failed(task)])
    assert fate.verdict is Verdict.REOPENED
    assert (await looking.look()) == Audit(0, (), 0, is_behind=False)
    assert looking._seen == {}


async def test_drift_is_told_once_counted_while_it_lasts_and_gone_when_mended(site):
    pks = await settled(site, 450, 30)
    looking = auditor(site)
    await change(site, pks[1], quota=20)
    assert (await looking.look()).fresh == (Drift(pks[1], "other_amount", 13),)
    again = await looking.look()
    assert (again.drift_quota, again.fresh, again.looked) == (13, (), 0)
    await change(site, pks[1], quota=7)
    assert (await looking.look()).drift_quota == 0


async def test_a_settlement_younger_than_a_transaction_may_last_is_left_for_later(site):
    pks = await settled(site, 450)
    await site.gateway.set_state(pks[0], "IN_PROGRESS")
    looking = auditor(site, settling_s=45.0)
    assert (await looking.look()).looked == 0
    await site.gateway.connection.execute("UPDATE poller.ledger SET settled_at = now() - interval '1 minute'")
    assert (await looking.look()).looked == 1


async def test_each_settlement_is_looked_at_once_and_a_full_look_says_that_more_wait(site, monkeypatch):
    monkeypatch.setattr("poller.postgres.audit._AT_ONCE", 3)
    await settled(site, *range(1, 8))
    looking = auditor(site)
    seen = [await looking.look() for _ in range(4)]
    assert [(each.looked, each.is_behind) for each in seen] == [(3, True), (3, True), (1, False), (0, False)]


async def test_only_the_replica_that_lives_longest_looks(site):
    pks = await settled(site, 450)
    await change(site, pks[0], quota=99)
    await site.gateway.connection.execute(
        "INSERT INTO poller.replica (id, started_at, seen_until) VALUES"
        " ('dead', now() - interval '2 hours', now() - interval '1 minute'),"
        " ('replica-2', now() - interval '1 hour', now() + interval '1 minute'),"
        " ('replica-1', now(), now() + interval '1 minute')"
    )
    first, second = auditor(site), auditor(site, replica_id="replica-2")
    assert await first.look() == Audit(0, (), 0, is_behind=False)
    assert (await second.look()).drift_quota > 0
    await site.gateway.connection.execute("DELETE FROM poller.replica WHERE id = 'replica-2'")
    # It looks back: what its predecessor knew is found again.
    assert (await first.look()).drift_quota > 0


async def test_drift_is_one_error_line_that_names_ten_tasks_and_a_gauge(site):
    pks = await settled(site, *[10] * 24)
    for pk in pks[::2]:
        await site.gateway.set_state(pk, "IN_PROGRESS")
    told, lines, _ = recorder()
    vigil = Vigil(None, None, None, auditor(site), None, told, dict, pace_s=15.0, stops_channels=False)
    assert await vigil.audit() == 15.0
    assert await vigil.audit() == 15.0
    assert told.metrics.registry.get_sample_value("custompass_ledger_drift_quota") == 120
    (line,) = lines.events
    assert (line["level"], line["event"], line["count"]) == ("error", "ledger_drift_seen", 12)
    assert line["task_pks"] == pks[::2][:10]
    assert line["kinds"] == "open_again"
    assert "reconcile" in line["remedy"]


async def test_a_look_at_five_thousand_settlements_among_many_is_quick_and_reads_through_no_large_table(site):
    gateway, rows = site.gateway, 60_000
    user, channel = await gateway.user(), await gateway.channel()
    times = "" if gateway.profile == "documented" else ", submit_time, finish_time"
    values = "" if gateway.profile == "documented" else ", 1, 1"
    await gateway.connection.execute(
        f"INSERT INTO tasks (task_id, platform, user_id, channel_id, quota, action, status{times})"
        f" SELECT 'job-' || n, 'custompass', $1, $2, $4::int, 'm', $3{values} FROM generate_series(1, {rows}) AS n",
        user,
        channel,
        gateway.word("FAILURE"),
        7 if gateway.profile == "fork" else 0,
    )
    await gateway.connection.execute(
        "INSERT INTO poller.ledger (task_pk, task_id, user_id, channel_id, outcome, rule, reserved, charged, refunded,"
        " attempt, settled_at) SELECT id, task_id, user_id, channel_id, 'FAILURE', 'failed_word', 7, 0, 7,"
        f" gen_random_uuid(), now() - interval '50 minutes' + id * interval '40 minutes' / {rows} FROM tasks"
    )
    line = {
        "documented": "(user_id, type, quota, created_at, content) SELECT user_id, 'refund', 7, settled_at, task_id",
        "fork": "(user_id, type, created_at, content)"
        " SELECT user_id, 4, floor(extract(epoch FROM settled_at)), task_id",
        "main": "(user_id, type, created_at, request_id) SELECT user_id, 6, 1,"
        " concat('poller-', replace(attempt::text, '-', ''), '-', task_pk)",
    }[gateway.profile]
    await gateway.connection.execute(f"INSERT INTO logs {line} FROM poller.ledger ORDER BY settled_at")
    await gateway.connection.execute("VACUUM ANALYZE")
    looking = auditor(site, settling_s=45.0)
    await looking.look()
    query = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname IN ('tasks', 'ledger', 'logs') ORDER BY relname"
    await gateway.connection.execute("SELECT pg_stat_force_next_flush()")
    before = await gateway.rows(query)
    started = time.perf_counter()
    looks = [await looking.look() for _ in range(8)]
    took_s = (time.perf_counter() - started) / len(looks)
    assert sum(each.looked for each in looks) == 40_000
    assert all(each.drift_quota == 0 for each in looks)
    assert took_s < 1.0
    await gateway.connection.execute("SELECT pg_stat_clear_snapshot()")
    assert await gateway.rows(query) == before
    print(f"{gateway.profile}: {took_s * 1000:.1f} ms a look at 5000 settlements")
