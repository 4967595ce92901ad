"""How one lane asks: what counts against its upstream, what is sent while it is in doubt, and what is not."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Sequence

import anyio
import pytest

from poller.asking import Asker
from poller.core.batches import Batch
from poller.core.breaker import OPENS_AFTER
from poller.core.concurrency import Slots
from poller.core.model import ABSENT, Answer, Channel, Route, Secret
from poller.core.words import DEFAULT_WORDS
from poller.errors import AskFailed, AskReason
from poller.gate import Gate
from poller.upstream.retrying import ask_with_retries
from tests.bounded import within
from tests.core.test_batches import task

LIMIT_S = 30.0
CHANNEL = Channel(7, 52, "c", "http://up", (Secret("key"),), DEFAULT_WORDS, "X-Custom-Token")
ROUTE = Route("m/submit", Secret("key"), None, "")


def refusal(status: int, **more: object) -> AskFailed:
    reasons = {
        401: AskReason.AUTH,
        404: AskReason.CLIENT_ERROR,
        400: AskReason.CLIENT_ERROR,
        408: AskReason.CLIENT_ERROR,
    }
    return AskFailed(reasons.get(status, AskReason.SERVER_ERROR), f"HTTP {status}", http_status=status, **more)  # type: ignore[arg-type]


class Upstream:
    """Does what *behave* says with each exchange; its number counts from 1."""

    def __init__(self, behave: Callable[[int], Awaitable[None]]) -> None:
        self.exchanges = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self.is_closed = False
        self._behave = behave

    async def ask(
        self, channel: Channel, route: Route, ids: Sequence[str], *, needs_own_connection: bool = False
    ) -> Answer:
        self.exchanges += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await self._behave(self.exchanges)
        finally:
            self.in_flight -= 1
        return Answer(dict.fromkeys(ids, ABSENT))

    async def aclose(self) -> None:
        self.is_closed = True


class Notes:
    """A recorder that keeps what it is told."""

    def __init__(self) -> None:
        self.reasons: list[AskReason | None] = []
        self.breakers: list[str] = []

    def asked(
        self, channel_id: int, model: str, count: int, duration_s: float, reason: AskReason | None, detail: str = ""
    ) -> None:
        self.reasons.append(reason)

    def breaker(self, channel_id: int, state: str) -> None:
        self.breakers.append(state)

    def concurrency(self, channel_id: int, limit: int) -> None:
        pass


class Desk:
    """An asker with everything round it."""

    def __init__(
        self, behave: Callable[[int], Awaitable[None]], *, retry_count: int = 0, delay_s: float = 0.01
    ) -> None:
        self.upstream = Upstream(behave)
        self.notes = Notes()
        self.opened = 0
        gate = Gate(Slots(20))
        gate.join(7)
        retrying = functools.partial(
            ask_with_retries, retry_count=retry_count, first_delay_s=delay_s, last_delay_s=delay_s, total_s=60.0
        )
        self.asker = Asker(
            7,
            gate=gate,
            recorder=self.notes,
            open_client=self._open,
            retrying=retrying,
            max_in_flight=20,
            batch_size=50,
        )

    def _open(self, channel: Channel) -> Upstream:
        self.opened += 1
        return self.upstream

    async def ask(self, count: int = 1, route: Route = ROUTE, **more: object) -> AskFailed | None:
        batch = Batch(route, {f"t{pk}": [task(pk)] for pk in range(count)})
        try:
            await self.asker.ask(CHANNEL, batch, **more)  # type: ignore[arg-type]
        except AskFailed as failed:
            return failed
        return None

    async def open_breaker(self) -> None:
        for _ in range(OPENS_AFTER):
            await self.ask()
        assert self.asker.breaker.state == "open"


async def works(number: int) -> None:
    pass


def fails(*failures: AskFailed) -> Callable[[int], Awaitable[None]]:
    """Fails with each of *failures* in turn, the last one for ever."""

    async def behave(number: int) -> None:
        failure = failures[min(number, len(failures)) - 1]
        raise AskFailed(
            failure.reason,
            failure.detail,
            retry_after_s=failure.retry_after_s,
            is_batch_fault=failure.is_batch_fault,
            http_status=failure.http_status,
        )

    return behave


@pytest.mark.parametrize(
    "failure",
    [
        refusal(500),
        refusal(408),
        refusal(401),
        AskFailed(AskReason.CONNECT),
        AskFailed(AskReason.TLS),
        AskFailed(AskReason.NOT_JSON),
        AskFailed(AskReason.TOO_LARGE, is_batch_fault=True),
    ],
    ids=str,
)
@within(LIMIT_S)
async def test_five_failures_in_a_row_open_the_breaker(failure: AskFailed) -> None:
    desk = Desk(fails(failure))
    await desk.open_breaker()
    assert desk.notes.breakers == ["open"]
    assert 4 < desk.asker.hold_s() <= 5


@pytest.mark.parametrize(
    ("failure", "route"),
    [
        (refusal(404), ROUTE),
        (refusal(400, is_batch_fault=True), ROUTE),
        (refusal(401), ROUTE._replace(client_token=Secret("tenant"))),
        (AskFailed(AskReason.BAD_REQUEST_PARTS), ROUTE),
    ],
    ids=str,
)
@within(LIMIT_S)
async def test_what_is_about_the_request_alone_says_nothing_against_upstream(failure: AskFailed, route: Route) -> None:
    desk = Desk(fails(failure))
    for _ in range(3 * OPENS_AFTER):
        assert await desk.ask(route=route)
    assert desk.asker.breaker.state == "closed"


@within(LIMIT_S)
async def test_a_failure_that_is_excused_says_nothing_against_upstream() -> None:
    desk = Desk(fails(AskFailed(AskReason.CODE, is_batch_fault=True)))
    for _ in range(3 * OPENS_AFTER):
        assert await desk.ask(is_excused=lambda failed: failed.is_batch_fault)
    assert desk.asker.breaker.state == "closed"


@within(LIMIT_S)
async def test_while_the_breaker_is_open_nothing_is_sent() -> None:
    desk = Desk(fails(refusal(500)), retry_count=3)
    await desk.open_breaker()
    before = desk.upstream.exchanges
    failed = await desk.ask()
    assert failed is not None
    assert failed.reason is AskReason.CIRCUIT_OPEN
    assert desk.upstream.exchanges == before
    assert desk.notes.reasons[-1] is AskReason.CIRCUIT_OPEN


@within(LIMIT_S)
async def test_what_waits_for_a_slot_when_the_breaker_opens_is_not_sent_either() -> None:
    release = anyio.Event()

    async def behave(number: int) -> None:
        await release.wait()
        raise AskFailed(AskReason.CONNECT)

    desk = Desk(behave)
    found: list[AskFailed | None] = []

    async def ask() -> None:
        found.append(await desk.ask())

    async with anyio.create_task_group() as group:
        for _ in range(30):
            group.start_soon(ask)
        while desk.upstream.in_flight < desk.asker.limit:
            await anyio.lowlevel.checkpoint()
        release.set()
    assert desk.upstream.exchanges < 10
    assert sum(failed is not None and failed.reason is AskReason.CIRCUIT_OPEN for failed in found) > 20


@within(LIMIT_S)
async def test_half_open_lets_the_probe_through_alone() -> None:
    probing, go_on = anyio.Event(), anyio.Event()

    async def behave(number: int) -> None:
        if number <= OPENS_AFTER:
            raise refusal(500)
        probing.set()
        await go_on.wait()

    desk = Desk(behave)
    await desk.open_breaker()
    desk.asker.begin_probe()
    async with anyio.create_task_group() as group:
        group.start_soon(functools.partial(desk.ask, is_probe=True))
        await probing.wait()
        other = await desk.ask()
        go_on.set()
    assert other is not None
    assert other.reason is AskReason.CIRCUIT_OPEN
    assert desk.upstream.most_in_flight == 1
    assert desk.notes.breakers == ["open", "half_open", "closed"]


@within(LIMIT_S)
async def test_a_probe_is_one_request() -> None:
    desk = Desk(fails(refusal(500)), retry_count=3)
    await desk.open_breaker()
    before = desk.upstream.exchanges
    desk.asker.begin_probe()
    assert await desk.ask(is_probe=True)
    assert desk.upstream.exchanges == before + 1
    assert desk.asker.breaker.state == "open"
    assert 9 < desk.asker.hold_s() <= 10


@within(LIMIT_S)
async def test_a_probe_that_is_refused_for_itself_shows_that_upstream_is_there() -> None:
    desk = Desk(fails(*[refusal(500)] * OPENS_AFTER, refusal(404)))
    await desk.open_breaker()
    desk.asker.begin_probe()
    assert await desk.ask(is_probe=True)
    assert desk.asker.breaker.state == "closed"


@within(LIMIT_S)
async def test_a_probe_that_was_never_sent_leaves_the_next_ask_to_be_the_probe() -> None:
    desk = Desk(fails(*[refusal(500)] * OPENS_AFTER, AskFailed(AskReason.BAD_REQUEST_PARTS)))
    await desk.open_breaker()
    desk.asker.begin_probe()
    assert await desk.ask(is_probe=True)
    assert (desk.asker.breaker.state, desk.asker.hold_s()) == ("half_open", 0)


@within(LIMIT_S)
async def test_retry_after_holds_the_whole_lane_at_once_and_not_only_the_ask_that_was_told() -> None:
    told = anyio.Event()

    async def behave(number: int) -> None:
        if number == 1:
            told.set()
            raise AskFailed(AskReason.RATE_LIMITED, retry_after_s=0.3)

    desk = Desk(behave, retry_count=1)
    async with anyio.create_task_group() as group:
        group.start_soon(desk.ask)
        await told.wait()
        await anyio.lowlevel.checkpoint()
        assert 0.2 < desk.asker.hold_s() <= 0.3
        other = await desk.ask()
        assert other is not None
        assert other.reason is AskReason.CIRCUIT_OPEN
        assert desk.upstream.exchanges == 1
    # The one that was told comes back when the wait is over.
    assert desk.upstream.exchanges == 2
    assert desk.asker.hold_s() == 0


@within(LIMIT_S)
async def test_a_client_that_is_to_wait_keeps_no_other_client_waiting() -> None:
    busy, other = (ROUTE._replace(client_token=Secret(name), token_header="X-T") for name in ("tok-busy", "tok-other"))

    async def behave(number: int) -> None:
        if number <= OPENS_AFTER:
            raise AskFailed(AskReason.RATE_LIMITED, retry_after_s=300.0)

    desk = Desk(behave)
    for number in range(OPENS_AFTER):
        await desk.ask(route=busy._replace(model=f"m{number}/submit") if number else busy)
    refused = await desk.ask(route=busy)
    assert refused is not None
    assert refused.reason is AskReason.CIRCUIT_OPEN
    assert (desk.upstream.exchanges, desk.asker.hold_s(), desk.asker.breaker.state) == (OPENS_AFTER, 0, "closed")
    assert await desk.ask(route=other) is None
    assert await desk.ask() is None
    desk.asker.forgive()
    assert await desk.ask(route=busy) is None


@within(LIMIT_S)
async def test_when_all_clients_are_to_wait_it_is_us_whom_upstream_means() -> None:
    desk = Desk(fails(AskFailed(AskReason.RATE_LIMITED, retry_after_s=300.0)))
    for number in range(101):
        assert desk.asker.hold_s() == 0
        await desk.ask(route=ROUTE._replace(client_token=Secret(f"tok-{number}"), token_header="X-T"))
    assert desk.asker.hold_s() > 290


@within(LIMIT_S)
async def test_clients_whose_wait_is_over_do_not_count_among_those_that_are_to_wait() -> None:
    desk = Desk(fails(AskFailed(AskReason.RATE_LIMITED, retry_after_s=0.001)))
    for number in range(300):
        await desk.ask(route=ROUTE._replace(client_token=Secret(f"tok-{number % 101}"), token_header="X-T"))
        await anyio.sleep(0.001)
    assert desk.asker.hold_s() == 0
    assert not desk.asker.is_held(ROUTE)


@within(LIMIT_S)
async def test_a_trigger_lifts_every_wait_for_one_probe() -> None:
    desk = Desk(fails(AskFailed(AskReason.RATE_LIMITED, retry_after_s=300.0)))
    await desk.ask()
    assert desk.asker.hold_s() > 290
    desk.asker.forgive()
    assert desk.asker.hold_s() == 0


@within(LIMIT_S)
async def test_stopping_gives_up_what_waits_for_its_next_try() -> None:
    failed_once = anyio.Event()

    async def behave(number: int) -> None:
        failed_once.set()
        raise AskFailed(AskReason.CONNECT)

    desk = Desk(behave, retry_count=3, delay_s=1000.0)
    desk.asker._retrying = functools.partial(
        ask_with_retries, retry_count=3, first_delay_s=1000.0, last_delay_s=1000.0, total_s=1e6
    )
    async with anyio.create_task_group() as group:
        group.start_soon(desk.ask)
        await failed_once.wait()
        desk.asker.stop()
    assert desk.upstream.exchanges == 1


@within(LIMIT_S)
async def test_a_cancelled_ask_counts_as_nothing_and_leaves_no_slot_behind() -> None:
    async def behave(number: int) -> None:
        await anyio.sleep_forever()

    desk = Desk(behave)
    with anyio.move_on_after(0.05):
        await desk.ask()
    assert desk.notes.reasons == []
    assert desk.asker._limiter.borrowed_tokens == 0
    assert desk.asker._gate._slots.in_use == 0


@within(LIMIT_S)
async def test_asks_side_by_side_open_one_client() -> None:
    desk = Desk(works)
    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(desk.ask)
    assert desk.opened == 1
    await desk.asker.close()
    assert desk.upstream.is_closed


@within(LIMIT_S)
async def test_a_limit_learnt_is_news_to_be_saved() -> None:
    desk = Desk(fails(AskFailed(AskReason.TIMEOUT)))
    before = desk.asker.limit
    await desk.ask()
    assert desk.asker.limit < before
    assert desk.asker.has_news
    assert desk.asker._limiter.total_tokens == desk.asker.limit


@pytest.mark.parametrize("state", ["closed", "open", "half_open"])
@within(LIMIT_S)
async def test_the_wait_of_an_earlier_holder_goes_on(state: str) -> None:
    desk = Desk(works)
    desk.asker.restore(state, 20.0, 7)
    assert 19 < desk.asker.hold_s() <= 20
    assert desk.asker.is_probing is (state != "closed")


@within(LIMIT_S)
async def test_a_wait_from_a_clock_that_was_set_back_is_bounded() -> None:
    desk = Desk(works)
    desk.asker.restore("open", 1e6, 7)
    assert desk.asker.hold_s() <= 300


@within(LIMIT_S)
async def test_retries_of_one_lane_are_a_fifth_of_its_requests() -> None:
    async def behave(number: int) -> None:
        if number % 2:
            raise AskFailed(AskReason.SERVER_ERROR)

    desk = Desk(behave, retry_count=3, delay_s=0.001)
    for _ in range(100):
        await desk.ask()
    assert desk.upstream.exchanges <= 100 + 3 + 20
