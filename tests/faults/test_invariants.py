"""The checker itself: silent on a healthy run, and each seeded violation is caught by the question made for it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import asyncpg
import pytest

from poller.demo import world
from poller.demo.fates import Lives
from poller.demo.simulator import Simulator
from tests.e2e.harness import truth_of
from tests.faults import checker
from tests.faults.settling import settle_everything
from tests.postgres.gateway import Gateway, open_store

LIMIT_S = 60
TASKS = 60


@pytest.fixture
async def healthy(make_database, open_database, profile_name) -> AsyncIterator[asyncpg.Connection]:
    """A database in which everything was settled under the witnesses' eyes; the connection calls itself a poller."""
    dsn = await make_database(profile_name)
    connection = await asyncpg.connect(dsn, server_settings={"application_name": "poller-checked"})
    simulator = Simulator(lives=Lives(seed=3))
    truth = truth_of(simulator)
    with anyio.fail_after(LIMIT_S):
        await world.seed(connection, profile_name, tasks=TASKS, upstream="http://upstream.test", truth=truth)
        await checker.install(connection, profile_name)
        store = await open_store(await open_database(dsn), Gateway(profile_name, dsn, connection))
        await settle_everything(connection, store)
    yield connection
    await connection.close()


NOT_ENDED = frozenset({"i16_nothing_left_behind"})
"""The pool of the test still stands."""

OPEN = "CASE WHEN status IN ('completed', 'failed') THEN 'submitted' ELSE 'QUEUED' END"
SEEDED = {
    "i01_balances": "ALTER TABLE users DISABLE TRIGGER inv_money; UPDATE users SET quota = quota + 1 WHERE id = 1",
    "i02_amounts": "UPDATE inv.truth SET charged = charged + 1, reserved = reserved + 1 WHERE task_pk = 3",
    "i03_once": "INSERT INTO inv.booked (op, task_pk) VALUES ('I', 3)",
    "i04_status_with_ledger": "UPDATE inv.booked SET xid = '7' WHERE task_pk = 3",
    "i05_money_with_ledger": "UPDATE users SET quota = quota + 1 WHERE id = 1",
    "i06_forward": "UPDATE tasks SET status = " + OPEN + " WHERE id = 3",
    "i07_final_once": "INSERT INTO inv.hist (op, task_pk, old_status, new_status)"
    " SELECT op, task_pk, old_status, new_status FROM inv.hist WHERE task_pk = 3 AND inv.outcome(new_status) <> ''",
    "i08_owner": "UPDATE poller.ledger SET user_id = user_id + 1 WHERE task_pk = 3",
    "i09_identity": "UPDATE tasks SET user_id = user_id + 1 WHERE id = 3",
    "i10_shape": "UPDATE tasks SET progress = '40%' WHERE id = 3",
    "i11_nothing_open": "UPDATE tasks SET status = " + OPEN + " WHERE id = 3",
    "i12_explained": "DELETE FROM poller.ledger WHERE task_pk = 3",
    "i13_logs": "INSERT INTO logs SELECT (to_l.r).* FROM (SELECT (jsonb_populate_record(l, '{\"id\": 99999}')) AS r"
    " FROM logs l ORDER BY id LIMIT 1) AS to_l",
    "i14_untouched": "UPDATE channels SET key = 'other' WHERE id = 1",
    "i15_no_secrets": "UPDATE poller.ledger SET evidence = 'sent demo-key-1' WHERE task_pk = 3",
    "i17_notes": "INSERT INTO poller.watch (task_pk, channel_id, quarantined_at) VALUES (3, 1, now())",
    "i19_sum": "UPDATE inv.truth SET charged = charged + 1 WHERE task_pk = 3",
    "i20_lines_elsewhere": "INSERT INTO inv.rule VALUES ('logs')",
    "i21_outbox": "INSERT INTO poller.outbox (kind, task_pk, payload) VALUES ('log', 3, '{}')",
    "i22_moved_once": "INSERT INTO inv.moved VALUES ('user_cache', 1, 5)",
    "i23_moved_at_all": "INSERT INTO poller.outbox (kind, task_pk, payload)"
    """ VALUES ('user_cache', 3, '{"user_id": 1, "delta": 5}')""",
    "i18_whole": "INSERT INTO inv.money (tbl, col, row_id, delta, app) VALUES ('users', 'quota', 1, 0.5, 'poller/x')",
}
SPLIT = {
    "a refund paid twice": (
        "UPDATE users SET quota = quota + 10 WHERE id = 4",
        {"i01_balances", "i05_money_with_ledger"},
    ),
    "a final row deleted": ("DELETE FROM tasks WHERE id = 3", {"i09_identity", "i12_explained"}),
    "a task finished without any money": (
        "DELETE FROM poller.ledger WHERE task_pk = (SELECT min(task_pk) FROM inv.truth WHERE outcome = 'FAILURE')",
        {"i01_balances", "i03_once", "i04_status_with_ledger", "i05_money_with_ledger", "i12_explained", "i13_logs"},
    ),
}


async def test_a_healthy_run_violates_nothing(healthy):
    assert await checker.violations(healthy, without=NOT_ENDED) == []
    assert await healthy.fetchval("SELECT count(*) FROM poller.ledger") == TASKS
    assert await healthy.fetchval("SELECT count(*) FROM inv.money WHERE app LIKE 'poller/%'") > 30


async def test_every_question_catches_its_own_violation(healthy):
    assert checker.checks().keys() - NOT_ENDED == SEEDED.keys()
    # Our own sessions are those named poller/…; the violations are made by one of them.
    await healthy.execute("SET application_name = 'poller/violator'")
    for name, violation in SEEDED.items():
        transaction = healthy.transaction()
        await transaction.start()
        await healthy.execute(violation)
        caught = {each.name for each in await checker.violations(healthy, without=NOT_ENDED)}
        await transaction.rollback()
        assert name in caught, violation
    assert await checker.violations(healthy, without=NOT_ENDED) == []


@pytest.mark.parametrize("name", SPLIT)
async def test_one_wrong_deed_is_seen_from_several_sides(healthy, name):
    violation, wanted = SPLIT[name]
    await healthy.execute("SET application_name = 'poller/violator'")
    await healthy.execute(violation)
    caught = {each.name for each in await checker.violations(healthy, without=NOT_ENDED)}
    assert wanted <= caught


async def test_sessions_that_stay_behind_are_found(healthy):
    assert {each.name for each in await checker.violations(healthy)} == {"i16_nothing_left_behind"}
