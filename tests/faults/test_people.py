"""What operators do beside the daemon, and what they find when they come back."""

from __future__ import annotations

import asyncio

from poller.core.model import Verdict
from tests.bounded import within
from tests.postgres.gateway import failed, succeeded
from tests.upstream.faults_server import FaultServer, Request, answer_of, response
from tests.upstream.rig import LIFETIME_S, MakeRig

LIMIT_S = 60
DAYS_S = 3 * 86_400.0


@within(LIMIT_S)
async def test_a_final_status_that_somebody_set_by_hand_is_respected_and_moves_no_money(make_rig: MakeRig) -> None:
    rig = await make_rig()
    channel = await rig.channel("http://127.0.0.1:1")
    pks = [await rig.task(channel) for _ in range(2)]
    tasks = await rig.site.tasks(channel)
    for pk, state in zip(pks, ("SUCCESS", "FAILURE"), strict=True):
        await rig.gateway.set_state(pk, state)
    before = await rig.picture()
    fates = await rig.site.store.settle([failed(tasks[0]), succeeded(tasks[1], 5)])
    assert Verdict.SETTLED not in {fate.verdict for fate in fates}
    assert await rig.site.tasks(channel) == []
    assert [await rig.state(pk) for pk in pks] == ["SUCCESS", "FAILURE"]
    after = await rig.picture()
    assert (after["users"], after["ledger"]) == (before["users"], [])


@within(LIMIT_S)
async def test_ten_thousand_tasks_of_a_deleted_channel_are_one_line_and_stay_as_they_are(make_rig: MakeRig) -> None:
    rig = await make_rig(page_size=1000, batch_size=50)
    channel = await rig.channel("http://127.0.0.1:1")
    await rig.task(channel)
    await rig.gateway.connection.execute(
        "INSERT INTO tasks (task_id, platform, user_id, channel_id, quota, action, status, submit_time, created_at)"
        " SELECT 'many-' || n, platform, user_id, channel_id, quota, action, status, submit_time, created_at"
        " FROM tasks, generate_series(2, 10000) AS n"
    )
    await rig.gateway.connection.execute("DELETE FROM channels")
    await rig.walk(channel)
    assert len([event for event in rig.lines.events if event["level"] in ("warning", "error")]) == 1
    assert await rig.gateway.rows("SELECT status, count(*) AS count FROM tasks GROUP BY status") == [
        {"status": rig.gateway.word("IN_PROGRESS"), "count": 10_000}
    ]
    assert await rig.gateway.ledger() == []


@within(LIMIT_S)
async def test_after_days_without_a_daemon_the_oldest_are_asked_first_and_settled_by_what_upstream_says(
    make_rig: MakeRig,
) -> None:
    asked: list[str] = []

    async def knows_all(request: Request, writer: asyncio.StreamWriter) -> None:
        asked.extend(request.ids)
        writer.write(response(answer_of(request.ids, "completed")))

    rig = await make_rig(batch_size=5, slots=1)
    assert LIFETIME_S < DAYS_S
    async with FaultServer(knows_all) as server:
        channel = await rig.channel(server.url)
        pks = [await rig.task(channel, age_s=DAYS_S - n) for n in range(30)]
        await rig.walk(channel)
    assert asked == [f"job-{n}" for n in range(1, 31)]
    assert [await rig.state(pk) for pk in pks] == ["SUCCESS"] * 30
    assert {row["rule"] for row in await rig.gateway.ledger()} == {"success_word"}
