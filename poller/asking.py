"""How one lane asks its upstream: slots, adaptive concurrency, retries, the breaker and upstream's own wishes.

The rules are pure and live in ``core``; this keeps their present state for one lane and applies them around each
exchange.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import anyio

from poller.core.batches import Batch
from poller.core.breaker import Breaker
from poller.core.concurrency import Adaptive, RetryBudget
from poller.core.model import Answer, Channel, Route
from poller.errors import AskFailed, AskReason
from poller.gate import Gate

_PUSH_BACK = frozenset({AskReason.RATE_LIMITED, AskReason.TIMEOUT})


class Upstream(Protocol):
    """The HTTP side of one lane: one exchange a call, no retries."""

    async def ask(self, channel: Channel, route: Route, ids: Sequence[str]) -> Answer: ...

    async def aclose(self) -> None: ...


class Recorder(Protocol):
    """Who counts and logs requests."""

    def asked(self, channel_id: int, model: str, count: int, duration_s: float, reason: AskReason | None) -> None: ...

    def breaker(self, channel_id: int, state: str) -> None: ...

    def concurrency(self, channel_id: int, limit: int) -> None: ...


Retrying = Callable[..., Awaitable[Answer]]
"""``upstream.retrying.ask_with_retries`` with counts and delays filled in."""


class Asker:
    """One lane's way to its upstream. The client is opened at the first ask, and anew when its set-up changes."""

    def __init__(
        self,
        channel_id: int,
        *,
        gate: Gate,
        recorder: Recorder,
        open_client: Callable[[Channel], Upstream],
        retrying: Retrying,
        max_in_flight: int,
    ) -> None:
        self.breaker = Breaker()
        self.has_news = False
        """The breaker's state changed since somebody last saved it."""
        self._channel_id = channel_id
        self._gate = gate
        self._recorder = recorder
        self._open_client = open_client
        self._retrying = retrying
        self._adaptive = Adaptive(max_in_flight)
        self._budget = RetryBudget()
        self._limiter = anyio.CapacityLimiter(self._adaptive.limit)
        self._not_before = 0.0
        self._client: Upstream | None = None
        self._client_of: tuple[object, ...] = ()
        self.is_stopping = False

    @property
    def limit(self) -> int:
        """Requests that this lane may have in flight, by its own experience of the upstream."""
        return self._adaptive.limit

    def hold_s(self) -> float:
        """Seconds until upstream may be asked again: the breaker's wait, or what upstream asked for; 0 when now."""
        until = max(self._not_before, self.breaker.open_until_s if self.breaker.state == "open" else 0.0)
        return max(0.0, until - anyio.current_time())

    @property
    def is_probing(self) -> bool:
        """The next ask is a probe: it goes alone."""
        return self.breaker.state != "closed"

    def forgive(self) -> None:
        """A person asked for a poll now: whatever the wait was, the next ask is a probe."""
        self._not_before = 0.0
        self.begin_probe()

    def begin_probe(self) -> None:
        """The breaker's wait is over: let one ask through to see."""
        if self.breaker.state == "open":
            self._set(self.breaker.probing())

    def restore(self, state: str, hold_s: float, failures: int) -> None:
        """Take over the breaker as an earlier holder of the lane left it."""
        if state != "closed":
            self.breaker = Breaker.restored(failures, anyio.current_time() + hold_s)

    async def ask(self, channel: Channel, batch: Batch) -> Answer:
        """Ask about one batch, retries included. Raises AskFailed; whatever it was, the batch stays open."""
        self._budget.request()
        ids = list(batch.tasks)

        async def once() -> Answer:
            return await self._exchange(channel, batch.route, ids)

        try:
            answer = await self._retrying(once, may_retry=self._may_retry)
        except AskFailed as failed:
            if failed.retry_after_s:
                self._not_before = max(self._not_before, anyio.current_time() + failed.retry_after_s)
            if not (failed.is_batch_fault and len(ids) > 1):
                self._set(self.breaker.failed(anyio.current_time()))
            raise
        self._set(self.breaker.succeeded())
        return answer

    async def _exchange(self, channel: Channel, route: Route, ids: Sequence[str]) -> Answer:
        """One exchange in one slot; its time is what the adaptive limit learns from, retries and waits left out."""
        async with self._limiter, self._gate.slot(self._channel_id) as slot:
            client = await self._client_for(channel)
            was_full = self._limiter.borrowed_tokens >= self._adaptive.limit
            began_at = anyio.current_time()
            reason: AskReason | None = None
            try:
                answer = await client.ask(channel, route, ids)
                self._adaptive.answered(anyio.current_time() - began_at, was_full)
                return answer
            except AskFailed as failed:
                reason = failed.reason
                slot.timed_out = reason is AskReason.TIMEOUT
                if reason in _PUSH_BACK:
                    self._adaptive.pushed_back()
                raise
            finally:
                took_s = anyio.current_time() - began_at
                self._recorder.asked(self._channel_id, route.model, len(ids), took_s, reason)
                if self._limiter.total_tokens != self._adaptive.limit:
                    self._limiter.total_tokens = self._adaptive.limit
                    self._recorder.concurrency(self._channel_id, self._adaptive.limit)

    def _may_retry(self) -> bool:
        return not self.is_stopping and self._budget.may_retry()

    def _set(self, breaker: Breaker) -> None:
        if breaker.state != self.breaker.state:
            self.has_news = True
            self._recorder.breaker(self._channel_id, breaker.state)
        self.breaker = breaker

    async def _client_for(self, channel: Channel) -> Upstream:
        wanted = (channel.proxy, channel.timeout_s)
        if self._client is None or self._client_of != wanted:
            await self.close()
            self._client, self._client_of = self._open_client(channel), wanted
        return self._client

    async def close(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None:
            with anyio.move_on_after(2, shield=True):
                await client.aclose()
