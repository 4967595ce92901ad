"""Retries inside one ask: which, how many, how long; with chance and sleep in hand, so nothing here waits."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest

from poller.core.model import Answer
from poller.errors import AskFailed, AskReason
from poller.upstream.retrying import ask_with_retries

GOOD = Answer({})
PASSING = [
    AskFailed(AskReason.CONNECT),
    AskFailed(AskReason.TIMEOUT),
    AskFailed(AskReason.NETWORK),
    AskFailed(AskReason.RATE_LIMITED, http_status=429),
    AskFailed(AskReason.SERVER_ERROR, http_status=503),
    AskFailed(AskReason.CLIENT_ERROR, http_status=408),
    AskFailed(AskReason.CLIENT_ERROR, http_status=425),
]
LASTING = [
    *(AskFailed(reason) for reason in AskReason if reason.value not in {failed.reason.value for failed in PASSING}),
    AskFailed(AskReason.CLIENT_ERROR, http_status=404),
    AskFailed(AskReason.CLIENT_ERROR, http_status=413, is_batch_fault=True),
]


class Trial:
    """An ask that fails as told, then succeeds; it remembers what was waited."""

    def __init__(self, *failures: Exception) -> None:
        self.left = list(failures)
        self.tries = 0
        self.waits: list[float] = []

    async def once(self) -> Answer:
        self.tries += 1
        if self.left:
            raise self.left.pop(0)
        return GOOD

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    async def run(
        self,
        *,
        retry_count: int = 3,
        total_s: float = 1000.0,
        chance: float = 0.999999,
        may_retry: Callable[[], bool] = lambda: True,
    ) -> Answer:
        with anyio.fail_after(10):
            return await ask_with_retries(
                self.once,
                retry_count=retry_count,
                first_delay_s=1.0,
                total_s=total_s,
                may_retry=may_retry,
                sleep=self.sleep,
                chance=lambda: chance,
            )


async def test_good_answer_is_asked_for_once() -> None:
    trial = Trial()
    assert await trial.run() is GOOD
    assert (trial.tries, trial.waits) == (1, [])


@pytest.mark.parametrize("failed", PASSING, ids=str)
async def test_what_may_pass_is_tried_again(failed: AskFailed) -> None:
    trial = Trial(failed)
    assert await trial.run() is GOOD
    assert trial.tries == 2


@pytest.mark.parametrize("failed", LASTING, ids=str)
async def test_what_will_not_pass_is_not_tried_again(failed: AskFailed) -> None:
    trial = Trial(failed)
    with pytest.raises(AskFailed) as caught:
        await trial.run()
    assert caught.value is failed
    assert trial.tries == 1


async def test_bug_is_not_tried_again() -> None:
    trial = Trial(KeyError("x"))
    with pytest.raises(KeyError):
        await trial.run()
    assert trial.tries == 1


async def test_tries_are_bounded_and_the_last_failure_comes_out_as_it_was() -> None:
    failures = [AskFailed(AskReason.SERVER_ERROR, f"HTTP 50{number}") for number in range(9)]
    trial = Trial(*failures)
    with pytest.raises(AskFailed) as caught:
        await trial.run(retry_count=3)
    assert caught.value is failures[3]
    assert trial.tries == 4


async def test_no_retries_means_one_try() -> None:
    trial = Trial(PASSING[0])
    with pytest.raises(AskFailed):
        await trial.run(retry_count=0)
    assert trial.tries == 1


async def test_delays_double_and_stay_under_their_cap() -> None:
    trial = Trial(*[AskFailed(AskReason.CONNECT)] * 7)
    await trial.run(retry_count=7)
    assert [round(wait) for wait in trial.waits] == [1, 2, 4, 8, 15, 15, 15]


async def test_chance_halves_a_delay_at_most() -> None:
    trial = Trial(*[AskFailed(AskReason.CONNECT)] * 3)
    await trial.run(chance=0.0)
    assert trial.waits == [0.5, 1.0, 2.0]


async def test_retries_end_when_the_next_would_start_too_late() -> None:
    trial = Trial(*[AskFailed(AskReason.CONNECT)] * 9)
    with pytest.raises(AskFailed):
        await trial.run(retry_count=9, total_s=8.0)
    assert sum(trial.waits) <= 8.0
    assert trial.tries == 4


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.999])
async def test_retry_after_is_a_floor(chance: float) -> None:
    trial = Trial(AskFailed(AskReason.RATE_LIMITED, retry_after_s=7.0))
    await trial.run(chance=chance)
    assert 7.0 <= trial.waits[0] <= 8.0


async def test_short_retry_after_does_not_hurry_the_back_off() -> None:
    trial = Trial(AskFailed(AskReason.RATE_LIMITED, retry_after_s=0.0))
    await trial.run(chance=0.0)
    assert trial.waits == [0.5]


async def test_retry_after_that_does_not_fit_ends_the_ask_at_once() -> None:
    trial = Trial(AskFailed(AskReason.RATE_LIMITED, retry_after_s=60.0))
    with pytest.raises(AskFailed) as caught:
        await trial.run(total_s=30.0)
    assert caught.value.retry_after_s == 60.0
    assert (trial.tries, trial.waits) == (1, [])


async def test_empty_budget_ends_the_retries_and_is_only_asked_when_one_is_due() -> None:
    spent: list[bool] = []

    def budget() -> bool:
        spent.append(True)
        return len(spent) < 2

    trial = Trial(*[AskFailed(AskReason.CONNECT)] * 5)
    with pytest.raises(AskFailed):
        await trial.run(retry_count=5, may_retry=budget)
    assert (trial.tries, len(spent)) == (2, 2)

    spent.clear()
    with pytest.raises(AskFailed):
        await Trial(AskFailed(AskReason.AUTH)).run(may_retry=budget)
    with pytest.raises(AskFailed):
        await Trial(AskFailed(AskReason.CONNECT)).run(retry_count=0, may_retry=budget)
    assert spent == []
