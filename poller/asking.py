"""How one lane asks its upstream: slots, adaptive concurrency, retries, the breaker and upstream's own wishes.

The rules are pure and live in ``core``; this keeps their present state for one lane and applies them around each
exchange.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import anyio

from poller.core.batches import Batch, BatchSize
from poller.core.breaker import Breaker
from poller.core.concurrency import Adaptive, RetryBudget
from poller.core.model import Answer, Channel, Route
from poller.errors import AskFailed, AskReason
from poller.gate import Gate

_PUSH_BACK = frozenset({AskReason.RATE_LIMITED, AskReason.TIMEOUT})
_ABOUT_CLIENT = frozenset({AskReason.AUTH, AskReason.RATE_LIMITED})
"""What may be said to the client whose token went along, and not to us."""
_CLIENTS_HELD = 100
"""When that many clients are to wait at a time, it is us whom upstream means."""
_UNSENT = frozenset({AskReason.BAD_REQUEST_PARTS, AskReason.CIRCUIT_OPEN})
_PASSING = frozenset({408, 425})
_SPLITS = 16
"""Splits of refused batches without a good answer in between: enough to find a bad id in 1 000, far too few for a storm
against an upstream that refuses everything."""
_LONGEST_HOLD_S = 300.0
_NEARLY_S = 0.002
"""Timers may fire early by as much."""


class Upstream(Protocol):
    """The HTTP side of one lane: one exchange a call, no retries."""

    async def ask(
        self, channel: Channel, route: Route, ids: Sequence[str], *, needs_own_connection: bool = False
    ) -> Answer: ...

    async def aclose(self) -> None: ...


class Recorder(Protocol):
    """Who counts and logs requests."""

    def asked(
        self, channel_id: int, model: str, count: int, duration_s: float, reason: AskReason | None, detail: str = ""
    ) -> None: ...

    def breaker(self, channel_id: int, state: str) -> None: ...

    def concurrency(self, channel_id: int, limit: int) -> None: ...


Retrying = Callable[..., Awaitable[Answer]]
"""``upstream.retrying.ask_with_retries`` with counts and delays filled in."""


class Asker:
    """One lane's way to its upstream. The client is opened at the first ask."""

    def __init__(
        self,
        channel_id: int,
        *,
        gate: Gate,
        recorder: Recorder,
        open_client: Callable[[Channel], Upstream],
        retrying: Retrying,
        max_in_flight: int,
        batch_size: int,
    ) -> None:
        self.breaker = Breaker()
        self.has_news = False
        """The breaker, the wait or the limit changed since somebody last saved them."""
        self.size = BatchSize(batch_size)
        self.splits_left = _SPLITS
        self._channel_id = channel_id
        self._gate = gate
        self._recorder = recorder
        self._open_client = open_client
        self._retrying = retrying
        self._adaptive = Adaptive(max_in_flight)
        self._budget = RetryBudget()
        self._limiter = anyio.CapacityLimiter(self._adaptive.limit)
        self._not_before = 0.0
        self._held: dict[Route, float] = {}
        """Until when upstream wants a single client's tasks left alone."""
        self._client: Upstream | None = None
        self._stopping = anyio.Event()

    @property
    def limit(self) -> int:
        """Requests that this lane may have in flight, by its own experience of the upstream."""
        return self._adaptive.limit

    def hold_s(self) -> float:
        """Seconds until upstream may be asked again: the breaker's wait, or what upstream asked for; 0 when now."""
        until = max(self._not_before, self.breaker.open_until_s if self.breaker.state == "open" else 0.0)
        left_s = until - anyio.current_time()
        return left_s if left_s > _NEARLY_S else 0.0

    @property
    def is_probing(self) -> bool:
        """The next ask is a probe: it goes alone, and no other ask starts before it ends."""
        return self.breaker.state != "closed"

    def is_held(self, route: Route) -> bool:
        """Whether upstream wants the client of *route* left alone for now."""
        return self._held.get(route, 0.0) > anyio.current_time()

    def stop(self) -> None:
        """Begin nothing new: what is in flight ends, what waits for its next try is given up."""
        self._stopping.set()

    def forgive(self) -> None:
        """A person asked for a poll now: whatever the wait was, the next ask is a probe."""
        self._not_before = 0.0
        self._held.clear()
        self.begin_probe()

    def begin_probe(self) -> None:
        """The breaker's wait is over: let one ask through to see."""
        if self.breaker.state == "open":
            self._set(self.breaker.probing())

    def restore(self, state: str, hold_s: float, failures: int) -> None:
        """Take over the breaker and the wait as an earlier holder of the lane left them."""
        until = anyio.current_time() + min(hold_s, _LONGEST_HOLD_S)
        if state == "closed":
            self._not_before = until
        else:
            self.breaker = Breaker.restored(failures, until)
            self._recorder.breaker(self._channel_id, self.breaker.state)

    async def ask(
        self,
        channel: Channel,
        batch: Batch,
        *,
        is_probe: bool = False,
        needs_own_connection: bool = False,
        is_excused: Callable[[AskFailed], bool] = lambda failed: False,
    ) -> Answer:
        """Ask about one batch, retries included. Raises AskFailed; whatever it was, the batch stays open.

        *is_probe*: this is the one ask that an open breaker lets through; it is not retried. *needs_own_connection* as
        ``Upstream.ask``. *is_excused* tells the failures that say nothing against upstream, because the same ids will
        be asked about in another way at once.
        """
        self._budget.request()
        ids = list(batch.tasks)

        async def once() -> Answer:
            return await self._exchange(channel, batch.route, ids, is_probe, needs_own_connection)

        def may_retry() -> bool:
            return not (is_probe or self._stopping.is_set()) and self._budget.may_retry()

        try:
            answer = await self._retrying(once, may_retry=may_retry, sleep=self._sleep)
        except AskFailed as failed:
            self._learn(failed, batch, is_excused(failed))
            raise
        self._set(self.breaker.succeeded())
        self.size.answered(len(ids))
        self.allow_split()
        return answer

    def allow_split(self) -> None:
        """One more batch may be split: after every good answer, and at the start of a pass."""
        self.splits_left = min(_SPLITS, self.splits_left + 1)

    def _learn(self, failed: AskFailed, batch: Batch, is_excused: bool) -> None:
        """What a failure says about upstream. A refusal of this very request says that upstream is there."""
        reason, status = failed.reason, failed.http_status
        if reason is AskReason.TIMEOUT:
            self.size.timed_out(len(batch.tasks))
        if reason in _UNSENT:
            return
        is_about_client = reason in _ABOUT_CLIENT and batch.route.client_token is not None
        is_about_request = reason is AskReason.CLIENT_ERROR and status not in _PASSING
        if is_excused or is_about_client or is_about_request:
            if self.breaker.state == "half_open":
                self._set(self.breaker.succeeded())
        else:
            self._set(self.breaker.failed(anyio.current_time()))

    async def _exchange(
        self, channel: Channel, route: Route, ids: Sequence[str], is_probe: bool, needs_own_connection: bool
    ) -> Answer:
        """One exchange in one slot; its time is what the adaptive limit learns from, retries and waits left out."""
        async with self._limiter, self._gate.slot(self._channel_id) as slot:
            if self._stopping.is_set():
                raise AskFailed(AskReason.CIRCUIT_OPEN, "the lane stops")
            if self.hold_s() > 0 or (self.is_probing and not is_probe):
                # Since this ask began, others have failed or were told to wait.
                failure = AskFailed(AskReason.CIRCUIT_OPEN, "upstream is left alone for now")
                self._say(route, ids, anyio.current_time(), failure)
                raise failure
            if self.is_held(route):
                failure = AskFailed(AskReason.CIRCUIT_OPEN, "this client's tasks are left alone for now")
                self._say(route, ids, anyio.current_time(), failure)
                raise failure
            if self._client is None:
                self._client = self._open_client(channel)
            was_full = self._limiter.borrowed_tokens >= self._adaptive.limit
            began_at = anyio.current_time()
            try:
                answer = await self._client.ask(channel, route, ids, needs_own_connection=needs_own_connection)
            except AskFailed as failed:
                slot.timed_out = failed.reason is AskReason.TIMEOUT
                if failed.reason in _PUSH_BACK:
                    self._adaptive.pushed_back()
                if failed.retry_after_s:
                    # At once: nobody else shall ask while this ask waits for its next try.
                    self._hold(route, anyio.current_time() + failed.retry_after_s)
                self._say(route, ids, began_at, failed)
                raise
            self._adaptive.answered(anyio.current_time() - began_at, was_full)
            self._say(route, ids, began_at, None)
            return answer

    def _hold(self, route: Route, until: float) -> None:
        """Leave upstream alone, or only the client whose token went along: the wish may well be about that client."""
        self._held = {other: ends for other, ends in self._held.items() if ends > anyio.current_time()}
        if route.client_token is None or len(self._held) >= _CLIENTS_HELD:
            self._not_before = max(self._not_before, until)
            self.has_news = True
        else:
            self._held[route] = until

    def _say(self, route: Route, ids: Sequence[str], began_at: float, failed: AskFailed | None) -> None:
        """Have one exchange counted, and follow the limit that was learnt from it."""
        took_s = anyio.current_time() - began_at
        reason, detail = (failed.reason, failed.detail) if failed else (None, "")
        self._recorder.asked(self._channel_id, route.model, len(ids), took_s, reason, detail)
        if self._limiter.total_tokens != self._adaptive.limit:
            self._limiter.total_tokens = self._adaptive.limit
            self._recorder.concurrency(self._channel_id, self._adaptive.limit)
            self.has_news = True

    async def _sleep(self, seconds: float) -> None:
        """Wait before a retry; a lane that stops does not sit it out."""
        with anyio.move_on_after(seconds):
            await self._stopping.wait()

    def _set(self, breaker: Breaker) -> None:
        if breaker.state != self.breaker.state:
            self.has_news = True
            self._recorder.breaker(self._channel_id, breaker.state)
        self.breaker = breaker

    async def close(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None:
            with anyio.move_on_after(2, shield=True):
                await client.aclose()
