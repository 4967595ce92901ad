"""The simulated upstream, asked through the real client."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from time import monotonic

import anyio
import httpx
import pytest
from faults_server import KEY, ROUTE, channel_at, limits

from poller.core.model import Answer, Kind, Usage
from poller.demo.fates import End, Lives
from poller.demo.simulator import Simulator
from poller.demo.troubles import CHAOS, Trouble
from poller.errors import AskFailed, AskReason
from poller.upstream.client import Client

Ask = Callable[..., Awaitable[Answer]]
LONG_AGO = Lives(seed=1, shortest_s=0.0, typical_s=0.0, longest_s=0.0, lost_share=0.1)
NEVER = Lives(seed=1, shortest_s=1e6, longest_s=1e6)


async def with_simulator(
    simulator: Simulator, use: Callable[[str, Ask], Awaitable[None]], timeout_s: float = 5.0
) -> None:
    """Run *use* with the base URL and a function that asks channel ``/ch1`` about ids."""
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            url = await group.start(simulator.run)
            channel = channel_at(f"{url}/ch1", timeout_s=timeout_s)
            client = Client(channel, limits())

            async def ask(*ids: str) -> Answer:
                return await client.ask(channel, ROUTE, ids)

            try:
                await use(url, ask)
            finally:
                await client.aclose()
                group.cancel_scope.cancel()


async def test_what_upstream_says_in_the_end_is_what_was_planned() -> None:
    simulator = Simulator(lives=LONG_AGO)
    ids = [f"t{number}" for number in range(500)]

    async def use(url: str, ask: Ask) -> None:
        answer = await ask(*ids)
        ends = Counter()
        for task_id in ids:
            report, fate = answer.reports[task_id], simulator.plan(task_id)
            ends[fate.end] += 1
            if fate.end is End.LOST:
                assert report.kind is Kind.ABSENT
                continue
            assert report.word == fate.end.value
            assert report.finished_s == pytest.approx(simulator.started_s, abs=0.01)
            assert report.error == fate.error
            told = None if fate.usage is None else Usage(*fate.usage, sum(fate.usage))
            assert report.usage == told
        assert min(ends[end] for end in End) > 10

    await with_simulator(simulator, use)


async def test_open_tasks_move_on_and_never_say_that_they_are_done() -> None:
    simulator = Simulator(lives=Lives(seed=3, shortest_s=100.0, typical_s=0.0, longest_s=100.0))
    fate = simulator.plan("t1")
    assert fate.progress(fate.begins_s) == 0
    assert fate.progress((fate.begins_s + fate.finishes_s) / 2) == 49
    assert fate.progress(fate.finishes_s + 1e9) == 99

    async def use(url: str, ask: Ask) -> None:
        assert (await ask("t1")).reports["t1"].word == "submitted"
        simulator.started_s -= 50
        said = (await ask("t1")).reports["t1"]
        assert (said.word, said.progress) == ("processing", "37%")

    await with_simulator(simulator, use)


def test_fates_follow_from_seed_and_id_alone() -> None:
    ids = [f"t{number}" for number in range(200)]
    plans = [[Lives(seed=seed).plan(task_id, 10.0) for task_id in ids] for seed in (1, 1, 2)]
    assert plans[0] == plans[1] != plans[2]
    assert {fate.end for fate in plans[0]} == {End.COMPLETED, End.FAILED}
    assert Lives(seed=1).plan("lost-1", 0.0).end is End.LOST


async def test_submitted_task_begins_when_it_is_submitted() -> None:
    simulator = Simulator(lives=NEVER)

    async def use(url: str, ask: Ask) -> None:
        async with httpx.AsyncClient() as anyone:
            answers = [(await anyone.post(f"{url}/ch1/flux/submit")).json() for _ in range(3)]
        ids = [answer["data"]["task_id"] for answer in answers]
        assert len(set(ids)) == 3
        born_s = simulator.plan(ids[0]).finishes_s - 1e6
        assert born_s == pytest.approx(simulator.now_s(), abs=30)
        assert (await ask(*ids)).reports[ids[0]].word == "submitted"

    await with_simulator(simulator, use)


async def test_speed_makes_lives_short() -> None:
    simulator = Simulator(speed=1e9)

    async def use(url: str, ask: Ask) -> None:
        assert (await ask("t1")).reports["t1"].word in ("completed", "failed")

    await with_simulator(simulator, use)


async def test_keys_are_checked_and_every_id_is_counted_under_the_key_it_came_with() -> None:
    simulator = Simulator(lives=NEVER, keys={"/ch1": KEY, "/ch2": "another"})

    async def use(url: str, ask: Ask) -> None:
        await ask("a", "b")
        wrong = channel_at(f"{url}/ch2")
        client = Client(wrong, limits())
        with pytest.raises(AskFailed) as caught:
            await client.ask(wrong, ROUTE, ["c"])
        await client.aclose()
        assert caught.value.reason is AskReason.AUTH

    await with_simulator(simulator, use)
    assert simulator.asked == {
        ("/ch1/flux/task/list-by-condition", f"Bearer {KEY}"): 2,
        ("/ch2/flux/task/list-by-condition", f"Bearer {KEY}"): 1,
    }
    assert (simulator.requests, simulator.in_flight, simulator.most_in_flight) == (2, 0, 1)


@pytest.mark.parametrize(
    ("trouble", "reasons"),
    [
        (Trouble(hanging=1.0), {AskReason.TIMEOUT}),
        (Trouble(dripping=1.0), {AskReason.TIMEOUT}),
        (Trouble(failing=1.0), {AskReason.SERVER_ERROR, AskReason.RATE_LIMITED}),
        (Trouble(babbling=1.0), {AskReason.NOT_JSON, AskReason.CODE, AskReason.ENVELOPE, AskReason.TOO_DEEP}),
    ],
)
async def test_troubled_channel_gives_no_evidence(trouble: Trouble, reasons: set[AskReason]) -> None:
    async def use(url: str, ask: Ask) -> None:
        with pytest.raises(AskFailed) as caught:
            await ask("t1")
        assert caught.value.reason in reasons

    await with_simulator(Simulator(lives=NEVER, troubles={"/ch1": trouble}), use, timeout_s=0.5)


@pytest.mark.parametrize(
    ("trouble", "kinds", "words"),
    [
        (Trouble(unknown_word=1.0), {Kind.SAID}, {"teleporting"}),
        (Trouble(not_found=1.0), {Kind.SAID}, {"not_found"}),
        (Trouble(absent=1.0), {Kind.ABSENT}, {""}),
        (Trouble(absent=1.0, strange=1.0), {Kind.UNPROVEN}, {""}),
        (Trouble(unreadable=1.0), {Kind.UNREADABLE}, {""}),
        (Trouble(doubled=1.0), {Kind.SAID, Kind.CONTRADICTION}, {"submitted", ""}),
    ],
)
async def test_troubled_items_are_read_as_such(trouble: Trouble, kinds: set[Kind], words: set[str]) -> None:
    async def use(url: str, ask: Ask) -> None:
        reports = (await ask(*(f"t{number}" for number in range(50)))).reports.values()
        assert {report.kind for report in reports} == kinds
        assert {report.word for report in reports} == words

    await with_simulator(Simulator(lives=NEVER, troubles={"/ch1": trouble}), use)


async def test_chaos_tells_no_lie_that_costs_money_and_heals() -> None:
    simulator = Simulator(lives=LONG_AGO, is_chaotic=True)
    ids = [f"t{number}" for number in range(20)]

    async def use(url: str, ask: Ask) -> None:
        answers: list[Answer | AskFailed] = []

        async def once() -> None:
            try:
                answers.append(await ask(*ids))
            except AskFailed as failed:
                answers.append(failed)

        async with anyio.create_task_group() as asks:
            for _ in range(60):
                asks.start_soon(once)
        assert {type(answer) for answer in answers} == {Answer, AskFailed}
        for answer in answers:
            for task_id, report in answer.reports.items() if isinstance(answer, Answer) else ():
                if report.kind is Kind.SAID and report.word in ("completed", "failed"):
                    assert report.word == simulator.plan(task_id).end.value
        simulator.started_s -= CHAOS.heals_after_s
        for _ in range(20):
            await ask(*ids)

    await with_simulator(simulator, use, timeout_s=3.0)


async def test_healthy_channels_do_not_feel_a_troubled_one() -> None:
    simulator = Simulator(lives=NEVER, troubles={"/ch2": Trouble(hanging=1.0)})

    async def use(url: str, ask: Ask) -> None:
        assert (await ask("t1")).reports["t1"].word == "submitted"

    await with_simulator(simulator, use)


async def test_hanging_requests_do_not_keep_the_simulator_from_stopping() -> None:
    simulator = Simulator(lives=NEVER, troubles={"/ch1": Trouble(hanging=1.0)})
    started = monotonic()

    async def use(url: str, ask: Ask) -> None:
        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(ask, f"t{number}")
            while simulator.in_flight < 5:
                await anyio.sleep(0.01)
            group.cancel_scope.cancel()

    await with_simulator(simulator, use)
    assert monotonic() - started < 10
    assert simulator.in_flight == 0
