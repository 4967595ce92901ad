"""What becomes of an answer, from the reports to the rows: the real store under the bench."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import anyio
import pytest

from poller.batch import Bench
from poller.core.batches import Batch
from poller.core.model import Channel, Kind, Policy, Report, Route, StatusWords, Usage
from poller.core.passes import PassCounts
from poller.ops import log
from poller.ops.metrics import Metrics
from poller.ops.recorder import Recorder
from tests.postgres.gateway import MODEL, Site, open_site

WORDS = StatusWords(frozenset({"completed"}), frozenset({"failed"}), frozenset({"processing"}))
POLICY = Policy(WORDS, 30.0, 3600.0, True, 3, 300.0)


@pytest.fixture
async def site(make_database, open_database, profile_name) -> AsyncIterator[Site]:
    with anyio.fail_after(60):
        made = await open_site(make_database, open_database, profile_name)
    yield made
    await made.gateway.connection.close()


@pytest.fixture
def recorder() -> Recorder:
    written = log.set_up(level="error", form="text", colours=False, secrets=[])
    return Recorder(Metrics(), written.logger)


async def test_a_usage_that_no_gateway_would_charge_goes_to_a_person_and_moves_nothing(site, recorder):
    gateway = site.gateway
    if gateway.profile == "documented":
        await gateway.connection.execute(f"INSERT INTO abilities VALUES ('{MODEL}', 52, 1, NULL)")
    else:
        await gateway.connection.execute("INSERT INTO options VALUES ('ModelRatio', $1)", json.dumps({MODEL: 1}))
    user, channel_id = await gateway.user(), await gateway.channel()
    for _ in range(2):
        await gateway.task(user, channel_id, 450)
    absurd, sound = await site.tasks(channel_id)
    channel = Channel(channel_id, 52, "", "http://127.0.0.1", (), WORDS, "")
    batch = Batch(Route(MODEL, None, None, ""), {"a": [absurd], "b": [sound]})
    reports = {
        "a": Report(Kind.SAID, "completed", usage=Usage(9 * 10**18, 0, 9 * 10**18)),
        "b": Report(Kind.SAID, "completed", usage=Usage(100, 100, 200)),
    }
    counts = PassCounts()
    await Bench(site.store, recorder).conclude(
        channel,
        batch,
        reports,
        now_s=absurd.submitted_s + 60,
        policy=POLICY,
        is_triggered=False,
        counts=counts,
        lessons={},
    )
    assert (counts.settled, counts.quarantined) == (1, 1)
    assert await site.tasks(channel_id) == []
    assert await gateway.rows("SELECT task_pk, reason FROM poller.watch") == [
        {"task_pk": absurd.pk, "reason": "charge_implausible"}
    ]
    assert (await gateway.balance(user))[0] == 1000 + 250


async def test_a_result_that_no_column_takes_is_settled_all_the_same_and_somebody_is_told(site, recorder):
    gateway = site.gateway
    user, channel_id = await gateway.user(), await gateway.channel()
    await gateway.task(user, channel_id, 450)
    (task,) = await site.tasks(channel_id)
    channel = Channel(channel_id, 52, "", "http://127.0.0.1", (), WORDS, "")
    report = Report(Kind.SAID, "completed", payload=b'{"task_id":"job-1","status":"completed","score":1e999}')
    counts = PassCounts()
    await Bench(site.store, recorder).conclude(
        channel,
        Batch(Route(MODEL, None, None, ""), {"job-1": [task]}),
        {"job-1": report},
        now_s=task.submitted_s + 60,
        policy=POLICY,
        is_triggered=False,
        counts=counts,
        lessons={},
    )
    assert counts.settled == 1
    seen = {"kind": "result_unstorable"}
    assert recorder.metrics.registry.get_sample_value("custompass_anomalies_total", seen) == 1
    (row,) = await gateway.ledger()
    assert "1e999" in row["evidence"]


async def test_a_failed_word_gives_everything_back_and_a_task_without_a_report_stays_open(site, recorder):
    user, channel_id = await site.gateway.user(), await site.gateway.channel()
    for _ in range(2):
        await site.gateway.task(user, channel_id, 450)
    failed, silent = await site.tasks(channel_id)
    counts = PassCounts()
    await Bench(site.store, recorder).conclude(
        Channel(channel_id, 52, "", "http://127.0.0.1", (), WORDS, ""),
        Batch(Route(MODEL, None, None, ""), {"a": [failed], "b": [silent]}),
        {"a": Report(Kind.SAID, "failed", error="no such video", usage=Usage(100, 100, 200))},
        now_s=failed.submitted_s + 60,
        policy=POLICY,
        is_triggered=False,
        counts=counts,
        lessons={},
    )
    assert (counts.settled, counts.refunded, counts.charged) == (1, 450, 0)
    assert [task.pk for task in await site.tasks(channel_id)] == [silent.pk]
    assert (await site.gateway.balance(user))[0] == 1000 + 450


async def test_a_task_past_its_deadline_that_nobody_answered_about_stays_open(site, recorder):
    user, channel_id = await site.gateway.user(), await site.gateway.channel()
    for _ in range(2):
        await site.gateway.task(user, channel_id, 450)
    absent, silent = await site.tasks(channel_id)
    counts = PassCounts()
    await Bench(site.store, recorder).conclude(
        Channel(channel_id, 52, "", "http://127.0.0.1", (), WORDS, ""),
        Batch(Route(MODEL, None, None, ""), {"a": [absent], "b": [silent]}),
        {"a": Report(Kind.ABSENT)},
        now_s=absent.submitted_s + 2 * POLICY.lifetime_s,
        policy=POLICY,
        is_triggered=False,
        counts=counts,
        lessons={},
    )
    assert [(entry["task_pk"], entry["rule"]) for entry in await site.gateway.ledger()] == [(absent.pk, "expired")]
    assert [task.pk for task in await site.tasks(channel_id)] == [silent.pk]
    assert (await site.gateway.balance(user))[0] == 1000 + 450
