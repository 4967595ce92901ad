"""One pass over a channel: it ends, it goes on past what is broken, and it stops where the database does."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import pytest

from poller.core import decide as law
from poller.core.model import Settled, Settlement
from poller.core.passes import Page
from poller.errors import DatabaseAway, NotPermitted
from poller.lane import Lane
from poller.postgres.faults import Fault, StatementFailed
from poller.settings import load
from poller.wiring import rules
from tests.bounded import within
from tests.upstream.faults_server import FaultServer, Request, answer_of, good, replies, response
from tests.upstream.rig import INTERVAL_S, LIFETIME_S, MakeRig, Rig
from tests.upstream.test_keys_at_work import NOT_FOUND_FAILS, at_least_one_interval_later

LIMIT_S = 60.0


async def finishes(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(response(answer_of(request.ids, "completed")))


def refuses(bad: str, raw: bytes) -> Callable[[Request, asyncio.StreamWriter], Any]:
    """Answers *raw* whenever *bad* is asked about, and finishes all other tasks."""

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        if bad in request.ids:
            writer.write(raw)
        else:
            await finishes(request, writer)

    return behave


async def states(rig: Rig, tasks: Sequence[int]) -> list[str]:
    return [await rig.state(pk) for pk in tasks]


class Odd:
    """A source that does what it is told to do wrongly, and everything else as the store does."""

    def __init__(self, rig: Rig, **wrong: Callable[..., Any]) -> None:
        self._store = rig.site.store
        self._wrong = wrong

    def __getattr__(self, name: str) -> Any:
        return self._wrong.get(name) or getattr(self._store, name)


def with_source(rig: Rig, channel: int, **wrong: Callable[..., Any]) -> None:
    """The lane of *channel* reads and writes through an odd source."""
    lane = rig.lane(channel)
    object.__setattr__(lane._tools, "source", Odd(rig, **wrong))
    lane._bench._tasks = lane._tools.source


# -- batches that heal themselves --------------------------------------------------------------------------

REFUSALS = {
    "400": response(b"bad id", "400 Bad Request"),
    "413": response(b"", "413 Too Large"),
    "422": response(b"", "422 Unprocessable"),
    "code": response(b'{"code":1001,"message":"no such task"}'),
    "NaN": response(b'{"code":0,"data":[{"task_id":"job-3","usage":NaN}]}'),
    "deep": response(b'{"code":0,"data":' + b"[" * 100_000),
    "too large": response(b" " * (2 << 20)),
}


@pytest.mark.parametrize("fault", REFUSALS)
@within(LIMIT_S)
async def test_a_bad_id_is_found_its_neighbours_are_settled_and_at_last_it_goes_to_a_person(
    fault: str, make_rig: MakeRig
) -> None:
    rig = await make_rig()
    async with FaultServer(refuses("job-3", REFUSALS[fault])) as server:
        channel = await rig.channel(server.url)
        tasks = [await rig.task(channel) for _ in range(8)]
        await rig.walk(channel)
        assert await states(rig, tasks) == ["SUCCESS", "SUCCESS", "IN_PROGRESS", *["SUCCESS"] * 5]
        assert await rig.watched() == []
        assert len(server.requests) <= 8
        assert rig.lane(channel).asker.breaker.state == "closed"
        # Alone on its channel by now, nobody can tell whether it is the id or upstream: it stays.
        await rig.walk(channel, passes=3)
        assert await rig.watched() == []
        for _ in range(2):
            # Only what an interval lies between counts: passes may follow one another sooner.
            for _ in range(2):
                await rig.task(channel)
                before = len(server.requests)
                await rig.walk(channel)
                assert len(server.requests) - before <= 3
                assert await rig.watched() == []
            rig.lane(channel).refusals = {pk: (n, s - INTERVAL_S) for pk, (n, s) in rig.lane(channel).refusals.items()}
        await rig.task(channel)
        await rig.walk(channel)
        (note,) = await rig.watched()
        assert (note["task_pk"], note["reason"]) == (tasks[2], "refused_alone")
        assert "upstream refuses this id" in note["detail"]
        asked = len(server.requests)
        await rig.walk(channel)
        assert len(server.requests) == asked
    assert rig.gateway.profile == "main"
    assert len(await rig.gateway.ledger()) == 7 + 5


@within(LIMIT_S)
async def test_an_id_over_which_upstream_breaks_is_found_too(make_rig: MakeRig) -> None:
    rig = await make_rig(batch_size=8)
    async with FaultServer(refuses("job-9", response(b"", "500 Panic"))) as server:
        channel = await rig.channel(server.url)
        tasks = [await rig.task(channel) for _ in range(16)]
        await rig.walk(channel, passes=2)
        assert (await states(rig, tasks)).count("SUCCESS") == 15
        assert await rig.state(tasks[8]) == "IN_PROGRESS"


@within(LIMIT_S)
async def test_an_upstream_that_refuses_for_seconds_puts_nobody_aside(make_rig: MakeRig) -> None:
    async def restarts(request: Request, writer: asyncio.StreamWriter) -> None:
        # Refuses one in two while it restarts: among the halves some are alone, their neighbours answered.
        if request.number <= 12 and request.number % 2:
            writer.write(REFUSALS["400"])
        else:
            await good(request, writer)

    rig = await make_rig()
    async with FaultServer(restarts) as server:
        channel = await rig.channel(server.url)
        for _ in range(4):
            await rig.task(channel)
        await rig.walk(channel, passes=6)
        assert await rig.watched() == []


@within(LIMIT_S)
async def test_an_upstream_that_refuses_everything_gets_few_requests(make_rig: MakeRig) -> None:
    rig = await make_rig(batch_size=8)
    async with FaultServer(replies(b"", "400 Bad Request")) as server:
        channel = await rig.channel(server.url)
        for _ in range(64):
            await rig.task(channel)
        before = await rig.picture()
        await rig.walk(channel)
        assert len(server.requests) <= 8 + 2 * 16
        asked = len(server.requests)
        await rig.walk(channel, passes=3)
        assert len(server.requests) - asked <= 3 * (8 + 2)
        assert await rig.picture() == before
        assert await rig.watched() == []


@within(LIMIT_S)
async def test_triggers_in_a_row_are_not_passes_in_a_row(make_rig: MakeRig) -> None:
    rig = await make_rig()
    async with FaultServer(refuses("job-1", REFUSALS["400"])) as server:
        channel = await rig.channel(server.url)
        await rig.task(channel)
        for _ in range(6):
            await rig.task(channel)
            rig.lane(channel).trigger()
            await rig.walk(channel)
        assert await rig.watched() == []


# -- going on, and stopping --------------------------------------------------------------------------


@within(LIMIT_S)
async def test_a_task_that_our_own_code_cannot_judge_stops_none_of_its_neighbours(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decide(task: Any, *args: Any, **named: Any) -> Any:
        if task.task_id == "job-2":
            raise ZeroDivisionError
        return law.decide(task, *args, **named)

    monkeypatch.setattr("poller.batch.decide", decide)
    rig = await make_rig()
    async with FaultServer(finishes) as server:
        channel = await rig.channel(server.url)
        tasks = [await rig.task(channel) for _ in range(4)]
        counts = await rig.walk(channel)
        assert await states(rig, tasks) == ["SUCCESS", "IN_PROGRESS", "SUCCESS", "SUCCESS"]
    (failure,) = [event for event in rig.lines.events if event["event"] == "task_failed"]
    assert failure["task_pks"] == [tasks[1]]
    assert counts.failed_requests == 1


@within(LIMIT_S)
async def test_a_batch_that_the_database_refuses_stops_none_of_the_others(make_rig: MakeRig) -> None:
    rig = await make_rig(batch_size=1)

    async def settle(settlements: Sequence[Settlement]) -> list[Settled]:
        if settlements[0].task.task_id == "job-1":
            raise StatementFailed(Fault.BUG, "XX000", "in settle")
        return await rig.site.store.settle(settlements)

    async with FaultServer(finishes) as server:
        channel = await rig.channel(server.url)
        tasks = [await rig.task(channel) for _ in range(4)]
        with_source(rig, channel, settle=settle)
        await rig.walk(channel)
        assert await states(rig, tasks) == ["IN_PROGRESS", "SUCCESS", "SUCCESS", "SUCCESS"]
    assert [event["level"] for event in rig.lines.events if event["event"] == "batch_failed"] == ["warning"]


@pytest.mark.parametrize("failure", [DatabaseAway("lost"), NotPermitted("no rights")], ids=str)
@within(LIMIT_S)
async def test_a_database_that_goes_between_two_pages_ends_the_pass_and_what_is_asked_is_still_settled(
    failure: Exception, make_rig: MakeRig
) -> None:
    rig = await make_rig(page_size=2, batch_size=2)
    is_away = anyio.Event()

    async def slow(request: Request, writer: asyncio.StreamWriter) -> None:
        await is_away.wait()
        await finishes(request, writer)

    async def page(channel_id: int, after_pk: int, limit: int) -> Page:
        if after_pk:
            is_away.set()
            raise failure
        return await rig.site.store.page(channel_id, after_pk, limit)

    async with FaultServer(slow) as server:
        channel = await rig.channel(server.url)
        tasks = [await rig.task(channel) for _ in range(6)]
        with_source(rig, channel, page=page)
        with pytest.raises(type(failure)):
            await rig.walk(channel)
        assert await states(rig, tasks) == ["SUCCESS"] * 2 + ["IN_PROGRESS"] * 4


@within(LIMIT_S)
async def test_a_database_that_goes_while_settling_begins_nothing_new(make_rig: MakeRig) -> None:
    rig = await make_rig(batch_size=1, slots=1)

    async def settle(settlements: Sequence[Settlement]) -> list[Settled]:
        raise DatabaseAway("lost")

    async with FaultServer(finishes) as server:
        channel = await rig.channel(server.url)
        for _ in range(60):
            await rig.task(channel)
        with_source(rig, channel, settle=settle)
        with pytest.raises(DatabaseAway):
            await rig.walk(channel)
        assert len(server.requests) < 20


@within(LIMIT_S)
async def test_a_pass_ends_though_tasks_come_faster_than_they_are_asked_about(make_rig: MakeRig) -> None:
    rig = await make_rig(page_size=4, batch_size=2)
    channel = 0

    async def submits(request: Request, writer: asyncio.StreamWriter) -> None:
        for _ in range(4):
            await rig.task(channel)
        await good(request, writer)

    async with FaultServer(submits) as server:
        channel = await rig.channel(server.url)
        for _ in range(8):
            await rig.task(channel)
        rig.lane(channel).asker._adaptive.limit = 1
        rig.lane(channel).asker._limiter.total_tokens = 1
        await rig.walk(channel)
        assert len(server.requests) <= 6


@within(LIMIT_S)
async def test_the_whole_of_a_lane_is_walked_whatever_the_size_of_its_pages(make_rig: MakeRig) -> None:
    rig = await make_rig(page_size=3, batch_size=4)
    async with FaultServer(finishes) as server:
        channel = await rig.channel(server.url)
        tasks = [await rig.task(channel) for _ in range(13)]
        await rig.walk(channel)
        assert await states(rig, tasks) == ["SUCCESS"] * 13
        assert sorted(len(request.ids) for request in server.requests) == [1, 4, 4, 4]


@within(LIMIT_S)
async def test_a_one_shot_pass_does_not_wait_for_a_breaker(make_rig: MakeRig) -> None:
    rig = await make_rig(batch_size=1)
    rules = rig.rules(is_patient=False)
    async with FaultServer(replies(b"", "500 No")) as server:
        channel = await rig.channel(server.url)
        for _ in range(20):
            await rig.task(channel)
        lane = rig.lane(channel)
        lane._rules = rules
        started = anyio.current_time()
        counts = await rig.walk(channel)
        assert anyio.current_time() - started < 4
    assert counts.failed_requests
    assert len(server.requests) < 20


@within(LIMIT_S)
async def test_nobody_can_be_asked_about_tasks_of_a_channel_that_is_gone_and_they_stay_open(make_rig: MakeRig) -> None:
    rig = await make_rig()
    channel = await rig.channel("http://127.0.0.1:1")
    await rig.task(channel)
    await rig.gateway.connection.execute("DELETE FROM channels")
    before = await rig.picture()
    counts = await rig.walk(channel)
    assert await rig.picture() == before
    assert counts.failed_requests == 1
    assert rig.reasons() == {"no_channel": 1}


@within(LIMIT_S)
async def test_the_end_of_an_answer_that_upstream_really_knows_nothing_of_costs_one_request(make_rig: MakeRig) -> None:
    async def forgets(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(response(answer_of([name for name in request.ids if name in ("job-1", "job-2")])))

    rig = await make_rig()
    async with FaultServer(forgets) as server:
        channel = await rig.channel(server.url)
        for _ in range(6):
            await rig.task(channel)
        counts = await rig.walk(channel)
        assert [len(request.ids) for request in server.requests] == [6, 4]
    assert counts.kept == 6


@within(LIMIT_S)
async def test_words_in_no_list_are_counted_and_move_nothing(make_rig: MakeRig) -> None:
    rig = await make_rig()
    body = json.dumps({"code": 0, "data": [{"task_id": f"job-{n}", "status": "resting"} for n in (1, 2)]}).encode()
    async with FaultServer(replies(body)) as server:
        channel = await rig.channel(server.url)
        for _ in range(2):
            await rig.task(channel)
        before = await rig.picture()
        await rig.walk(channel)
        assert await rig.picture() == before
    (row,) = await rig.gateway.rows("SELECT word, seen_count FROM poller.unknown_status")
    assert (row["word"], row["seen_count"]) == ("resting", 2)


@within(LIMIT_S)
async def test_the_lag_of_a_settlement_counts_the_time_that_asking_took(make_rig: MakeRig) -> None:
    rig = await make_rig()
    finished_s = 0.0

    async def slowly(request: Request, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.5)
        item = {"task_id": "job-1", "status": "completed", "finished_at": finished_s}
        writer.write(response(json.dumps({"code": 0, "data": [item]}).encode()))

    async with FaultServer(slowly) as server:
        channel = await rig.channel(server.url)
        await rig.task(channel)
        finished_s = await rig.gateway.connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
        await rig.walk(channel)
    assert (rig.metrics.registry.get_sample_value("custompass_detection_lag_seconds_sum") or 0) >= 0.5


# -- nobody can be asked -----------------------------------------------------------------------------------

DAYS_S = 3 * 86400.0


@within(LIMIT_S)
async def test_after_days_without_a_daemon_the_first_failure_puts_nobody_aside(make_rig: MakeRig) -> None:
    async def hiccups(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.number == 1:
            writer.write(response(b"", "503 Busy"))
        else:
            await finishes(request, writer)

    rig = await make_rig()
    async with FaultServer(hiccups) as server:
        channel = await rig.channel(server.url)
        tasks = [await rig.task(channel, age_s=DAYS_S) for _ in range(3)]
        await rig.walk(channel)
        assert await rig.watched() == []
        await rig.walk(channel)
        assert await states(rig, tasks) == ["SUCCESS"] * 3


@within(LIMIT_S)
async def test_who_cannot_be_asked_about_through_a_lifetime_of_asking_goes_to_a_person(make_rig: MakeRig) -> None:
    rig = await make_rig()
    async with FaultServer(replies(b"", "503 Busy")) as server:
        channel = await rig.channel(server.url)
        old, _ = await rig.task(channel, age_s=DAYS_S), await rig.task(channel, age_s=7200.0)
        await rig.walk(channel)
        lane = rig.lane(channel)
        # Nothing was asked for an hour: that is no hour of asking.
        lane._asking_since -= LIFETIME_S
        lane._asked_at -= LIFETIME_S
        await rig.walk(channel)
        assert await rig.watched() == []
        lane._asking_since -= LIFETIME_S
        await rig.walk(channel)
        (note,) = await rig.watched()
        assert (note["task_pk"], note["reason"]) == (old, "unreachable_past_limit")


@within(LIMIT_S)
async def test_what_a_lane_that_stops_does_not_ask_any_more_is_nobodys_failure(make_rig: MakeRig) -> None:
    rig = await make_rig(batch_size=1, slots=2)

    async def leaves(request: Request, writer: asyncio.StreamWriter) -> None:
        rig.lane(channel).leave()
        await finishes(request, writer)

    async with FaultServer(leaves) as server:
        channel = await rig.channel(server.url)
        tasks = [await rig.task(channel, age_s=DAYS_S) for _ in range(20)]
        rig.lane(channel).asking_s()
        rig.lane(channel)._asking_since -= LIFETIME_S
        await rig.walk(channel)
        assert (await states(rig, tasks)).count("SUCCESS") == len(server.requests) < 20
        assert await rig.watched() == []


@within(LIMIT_S)
async def test_what_one_channel_did_not_find_counts_for_no_other(make_rig: MakeRig) -> None:
    async def finds_none(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(response(answer_of(request.ids, "not_found")))

    rig = await make_rig(words=NOT_FOUND_FAILS)
    async with FaultServer(finds_none) as server:
        first, second = await rig.channel(server.url), await rig.channel(server.url)
        task = await rig.task(first, age_s=600.0)
        for _ in range(2):
            await rig.walk(first)
            await at_least_one_interval_later(rig)
        await rig.gateway.connection.execute("UPDATE tasks SET channel_id = $1", second)
        for _ in range(2):
            await rig.walk(second)
            await at_least_one_interval_later(rig)
            assert await rig.state(task) == "IN_PROGRESS"
        await rig.walk(second)
        assert await rig.state(task) == "FAILURE"


# -- whose task, and when -------------------------------------------------------------------------------------


def says(word: str) -> Callable[[Request, asyncio.StreamWriter], Any]:
    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(response(answer_of(request.ids, word)))

    return behave


@within(LIMIT_S)
async def test_one_id_on_two_channels_ends_as_each_upstream_says_of_its_own(
    profile_name: str, make_rig: MakeRig
) -> None:
    rig = await make_rig(profile_name)
    async with FaultServer(says("failed")) as failing, FaultServer(says("processing")) as working:
        first, second = await rig.channel(failing.url), await rig.channel(working.url)
        tasks = [await rig.task(channel, task_id="the-same") for channel in (first, second)]
        for channel in (first, second, first):
            await rig.walk(channel)
        assert [request.ids for request in failing.requests] == [["the-same"]]
    assert await states(rig, tasks) == ["FAILURE", "IN_PROGRESS"]
    assert [entry["task_pk"] for entry in await rig.gateway.ledger()] == tasks[:1]


@within(LIMIT_S)
async def test_a_list_that_upstream_cuts_ends_no_task_past_its_deadline(make_rig: MakeRig) -> None:
    """Those that it leaves out are asked about again, until they are all that is asked about."""

    async def cuts(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(response(answer_of(request.ids[:2], "completed")))

    rig = await make_rig()
    async with FaultServer(cuts) as server:
        channel = await rig.channel(server.url)
        tasks = [await rig.task(channel, age_s=2 * LIFETIME_S) for _ in range(5)]
        await rig.walk(channel)
    assert await states(rig, tasks) == ["SUCCESS"] * 5


def with_clock(rig: Rig, channel: int, now_s: Callable[[Page], float]) -> None:
    """The database of *channel* says that it is *now_s*."""

    async def page(*args: Any) -> Page:
        read = await rig.site.store.page(*args)
        return read._replace(now_s=now_s(read))

    with_source(rig, channel, page=page)


@within(LIMIT_S)
async def test_a_deadline_comes_by_the_databases_clock_and_not_by_ours(make_rig: MakeRig) -> None:
    rig = await make_rig()
    async with FaultServer(says("processing")) as server:
        channel = await rig.channel(server.url)
        with_clock(rig, channel, lambda read: read.now_s - 7200.0)
        task = await rig.task(channel, age_s=7200.0 + 300.0)
        await rig.walk(channel)
    assert await states(rig, [task]) == ["IN_PROGRESS"]


@within(LIMIT_S)
async def test_a_deadline_that_passes_while_upstream_is_asked_waits_for_the_next_ask(make_rig: MakeRig) -> None:
    """What it says then may date from before."""
    margin_s = 2.0

    async def late(request: Request, writer: asyncio.StreamWriter) -> None:
        if len(server.requests) == 1:
            await anyio.sleep(margin_s + 0.5)
        await says("processing")(request, writer)

    rig = await make_rig()
    async with FaultServer(late) as server:
        channel = await rig.channel(server.url)
        task = await rig.task(channel, age_s=LIFETIME_S + 100.0)
        with_clock(rig, channel, lambda read: read.tasks[0].submitted_s + LIFETIME_S - margin_s)
        await rig.walk(channel)
        assert await states(rig, [task]) == ["IN_PROGRESS"]
        await rig.walk(channel)
        assert await states(rig, [task]) == ["IN_PROGRESS"]
        with_clock(rig, channel, lambda read: read.now_s)
        await rig.walk(channel)
    assert await states(rig, [task]) == ["FAILURE"]


# -- a clock that leaps ------------------------------------------------------------------------------------


@within(LIMIT_S)
async def test_a_database_whose_clock_leaps_two_hours_ahead_ends_no_young_task(make_rig: MakeRig) -> None:
    said = {"job-1": "processing", "job-2": "completed", "job-3": "failed", "job-4": "processing", "job-5": "gone"}

    async def answers(request: Request, writer: asyncio.StreamWriter) -> None:
        items = [{"task_id": name, "status": said[name]} for name in request.ids if said[name] != "gone"]
        writer.write(response(json.dumps({"code": 0, "data": items}).encode()))

    leap_s = 0.0
    rig = await make_rig()
    async with FaultServer(answers) as server:
        channel = await rig.channel(server.url)

        async def page(*args: Any) -> Page:
            read = await rig.site.store.page(*args)
            return read._replace(now_s=read.now_s + leap_s)

        with_source(rig, channel, page=page)
        young = await rig.task(channel, age_s=300.0)
        await rig.walk(channel)
        leap_s = 7200.0
        tasks = [young, *[await rig.task(channel, age_s=300.0) for _ in range(2)]]
        tasks += [await rig.task(channel, age_s=4 * 3600.0), await rig.task(channel, age_s=300.0)]
        await rig.walk(channel, passes=2)
        # What upstream says is settled; what is too old by any clock is given up; the young go on.
        assert await states(rig, tasks) == ["IN_PROGRESS", "SUCCESS", "FAILURE", "FAILURE", "IN_PROGRESS"]
        (leapt,) = [event for event in rig.lines.events if event["event"] == "database_clock_leapt"]
        assert leapt["ahead_s"] == 7200
        leap_s = 0.0
        await rig.walk(channel)
        assert await states(rig, [young, tasks[4]]) == ["IN_PROGRESS"] * 2


def begin_by(rig: Rig, channel: int) -> None:
    """Give *channel* a lane as a daemon that begins now would."""
    clock = rules(load({"SQL_DSN": "postgres://gateway"}).settings).clock
    rig.lanes[channel] = Lane(channel, dataclasses.replace(rig.rules(), clock=clock), rig.tools())


@within(LIMIT_S)
async def test_a_daemon_that_begins_after_the_clock_leapt_ends_no_young_task_either(make_rig: MakeRig) -> None:
    async def works(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(response(answer_of(request.ids, "processing")))

    rig = await make_rig()
    async with FaultServer(works) as server:
        channel = await rig.channel(server.url)
        tasks = [await rig.task(channel, age_s=300.0), await rig.task(channel, age_s=4 * 3600.0)]

        async def page(*args: Any) -> Page:
            read = await rig.site.store.page(*args)
            return read._replace(now_s=read.now_s + 7200.0)

        begin_by(rig, channel)
        with_source(rig, channel, page=page)
        await rig.walk(channel, passes=2)
        assert await states(rig, tasks) == ["IN_PROGRESS", "FAILURE"]
        (leapt,) = [event for event in rig.lines.events if event["event"] == "database_clock_leapt"]
        assert leapt["ahead_s"] == pytest.approx(7200, abs=60)


@pytest.mark.parametrize("begins_after", [False, True])
@within(LIMIT_S)
async def test_a_database_whose_clock_goes_back_by_days_puts_nobody_aside(
    begins_after: bool, make_rig: MakeRig
) -> None:
    async def works(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(response(answer_of(request.ids, "processing")))

    leap_s = 0.0
    rig = await make_rig()
    async with FaultServer(works) as server:
        channel = await rig.channel(server.url)
        await rig.task(channel, age_s=300.0)

        async def page(*args: Any) -> Page:
            read = await rig.site.store.page(*args)
            return read._replace(now_s=read.now_s + leap_s)

        begin_by(rig, channel)
        with_source(rig, channel, page=page)
        if not begins_after:
            await rig.walk(channel)
        leap_s = -20 * 86400.0
        await rig.walk(channel, passes=2)
        assert await rig.watched() == []
        # What is in no clock's past is still a person's.
        odd = await rig.task(channel, age_s=-3 * 86400.0)
        await rig.walk(channel)
        assert [note["task_pk"] for note in await rig.watched()] == [odd]
