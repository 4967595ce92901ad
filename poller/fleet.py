"""The lanes of this replica: which ones it holds, as its leases say, and the loops that walk them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

import anyio
from anyio.abc import TaskGroup

from poller.core.schedule import backoff_s, is_said, next_pass_in_s
from poller.crashpoints import reach
from poller.errors import Defer, PollerError
from poller.lane import Lane

_BACKOFF_LAST_S = 15.0
_BEAT_LIMIT_S = 20.0
"""A beat that takes longer has lost its leases, or hangs."""
_SOUND_S = 60.0
"""A lane that ran for so long before it crashed had not been failing."""
_HAND_BACK_LEAST_S = 5.0
_HAND_BACK_FIRST_S, _HAND_BACK_LAST_S = 0.1, 1.0


class LaneState(Protocol):
    """A lane's row, as one beat read it; times are epoch seconds of the database."""

    @property
    def channel_id(self) -> int: ...

    @property
    def has_work(self) -> bool: ...

    @property
    def is_paused(self) -> bool: ...

    @property
    def triggered_at_s(self) -> float | None: ...

    @property
    def pass_started_at_s(self) -> float | None: ...

    @property
    def breaker(self) -> str: ...

    @property
    def breaker_until_s(self) -> float | None: ...

    @property
    def breaker_failures(self) -> int: ...

    @property
    def now_s(self) -> float: ...


class Beat(Protocol):
    """What one renewal of the leases came to."""

    @property
    def lanes(self) -> Sequence[LaneState]: ...

    @property
    def is_all_paused(self) -> bool: ...

    @property
    def share(self) -> int: ...

    @property
    def lanes_with_work(self) -> int: ...


class Leases(Protocol):
    """Who may walk which lane; for efficiency, never for correctness."""

    async def beat(self, *, is_leaving: bool = False) -> Beat: ...

    async def release(self, channel_ids: Sequence[int] | None = None) -> None: ...


class Recorder(Protocol):
    """Who counts and logs what the fleet does."""

    def lanes(self, held: int, paused: int, waiting: int) -> None: ...

    def lane_left(self, channel_id: int) -> None: ...

    def event(self, level: str, name: str, **facts: object) -> None: ...


@dataclasses.dataclass(slots=True)
class _Held:
    """One lane that this replica walks."""

    lane: Lane
    scope: anyio.CancelScope
    seen_trigger_s: float = 0.0
    is_done: anyio.Event = dataclasses.field(default_factory=anyio.Event)


class Fleet:
    """Keeps the leases, starts a loop for each lane that comes, ends it for each that goes."""

    def __init__(
        self,
        leases: Leases,
        open_lane: Callable[[int], Lane],
        recorder: Recorder,
        *,
        interval_s: float,
        renewal_s: float,
        start_delay_s: float,
    ) -> None:
        self.due_at = anyio.current_time()
        """When the leases are to be tried next, or were to be and still are: a loop that hangs shows here."""
        self.has_beaten = False
        self._leases = leases
        self._open_lane = open_lane
        self._recorder = recorder
        self._interval_s = interval_s
        self._renewal_s = renewal_s
        self._start_at = anyio.current_time() + start_delay_s
        self._held: dict[int, _Held] = {}
        self._is_draining = False
        self._renewals = anyio.CancelScope()
        self._renewing = anyio.Lock()
        """Held as long as leases are renewed."""
        self._wake = anyio.Event()

    @property
    def lanes(self) -> dict[int, Lane]:
        """The lanes held now, by channel."""
        return {channel_id: held.lane for channel_id, held in self._held.items()}

    def wake(self) -> None:
        """Renew now instead of at the next third of the lease."""
        self._wake.set()

    async def run(self) -> None:
        """Renew and walk until ``drain`` hands all leases back."""
        async with anyio.create_task_group() as group, self._renewing:
            with self._renewals:
                await self._renew(group)

    async def _renew(self, group: TaskGroup) -> None:
        outages = 0
        while True:
            self.due_at = anyio.current_time()
            try:
                beat = await self._beat()
                reach("fleet.beaten")
            except Defer as away:
                outages += 1
                wait_s = min(self._renewal_s, backoff_s(outages, 0.5, _BACKOFF_LAST_S))
                if is_said(outages):
                    facts = {"reason": str(away), "failures": outages, "retry_in": wait_s}
                    self._recorder.event("warning", "renewal_deferred", **facts)
            else:
                if outages:
                    self._recorder.event("info", "renewal_restored", failures=outages)
                outages, wait_s = 0, self._renewal_s
                self.has_beaten = True
                if not self._is_draining:
                    await self._follow(beat, group)
            self.due_at = anyio.current_time() + wait_s
            with anyio.move_on_after(wait_s):
                await self._wake.wait()
            self._wake = anyio.Event()

    async def _beat(self) -> Beat:
        with anyio.move_on_after(_BEAT_LIMIT_S):
            return await self._leases.beat(is_leaving=self._is_draining)
        raise Defer(f"no leases within {_BEAT_LIMIT_S:.0f} s")

    async def drain(self, limit_s: float) -> bool:
        """Let every lane finish what it asked about, then hand all leases back; True when all lanes ended in time.

        A database that is away is waited for until *limit_s* are over, and for 5 s at least. A lane that did not end in
        time may still be settling afterwards: the guard of the settlement does not need its lease.
        """
        give_up_at = anyio.current_time() + limit_s
        self._is_draining = True
        waiting = list(self._held.values())
        for held in waiting:
            held.lane.leave()
        with anyio.move_on_after(limit_s) as limit:
            for held in waiting:
                await held.is_done.wait()
        for held in waiting:
            held.scope.cancel()
        # A beat that hangs would hold up the handing back; what the server does of it later takes no lane any more.
        self._renewals.cancel()
        with anyio.CancelScope(deadline=max(give_up_at, anyio.current_time() + _HAND_BACK_LEAST_S)) as handing_back:
            async with self._renewing:
                await self._hand_all_back()
        if handing_back.cancelled_caught:
            # The leases run out by themselves.
            self._recorder.event("warning", "hand_back_failed", limit=max(limit_s, _HAND_BACK_LEAST_S))
        return not limit.cancelled_caught

    async def _hand_all_back(self) -> None:
        tries = 0
        while True:
            self.due_at = anyio.current_time()
            try:
                await self._leases.release()
                return
            except Defer as away:
                tries += 1
                wait_s = backoff_s(tries, _HAND_BACK_FIRST_S, _HAND_BACK_LAST_S)
                self._recorder.event("warning", "hand_back_deferred", reason=str(away), retry_in=wait_s)
            await anyio.sleep(wait_s)

    # -- following the leases ----------------------------------------------------------------------------------------

    async def _follow(self, beat: Beat, group: TaskGroup) -> None:
        states = {state.channel_id: state for state in beat.lanes}
        for channel_id in self._held.keys() - states.keys():
            # Somebody else walks it by now: what is in flight here would be asked twice, no more.
            self._held[channel_id].scope.cancel()
        for channel_id, state in states.items():
            if channel_id not in self._held:
                self._take(state, group)
            held = self._held[channel_id]
            held.lane.set_flags(is_paused=state.is_paused or beat.is_all_paused, has_work=state.has_work)
            triggered_s = state.triggered_at_s or 0.0
            # Not "later than the last one seen": the database's clock may have been set back since.
            if triggered_s != held.seen_trigger_s and triggered_s > (state.pass_started_at_s or 0.0):
                held.seen_trigger_s = triggered_s
                held.lane.trigger()
        busy = [channel_id for channel_id, state in states.items() if state.has_work]
        for channel_id in busy[beat.share :]:
            self._held[channel_id].lane.leave()
        lanes = self.lanes.values()
        paused = sum(lane.is_paused for lane in lanes)
        self._recorder.lanes(len(lanes), paused, sum(lane.asker.is_probing for lane in lanes))

    def _take(self, state: LaneState, group: TaskGroup) -> None:
        lane = self._open_lane(state.channel_id)
        lane.set_due(next_pass_in_s(state.pass_started_at_s, self._interval_s, state.now_s))
        if (wait_s := self._start_at - anyio.current_time()) > 0:
            lane.set_due(wait_s)
        lane.asker.restore(
            state.breaker, max(0.0, (state.breaker_until_s or 0.0) - state.now_s), state.breaker_failures
        )
        held = self._held[state.channel_id] = _Held(lane, anyio.CancelScope())
        group.start_soon(self._walk, held)

    async def _walk(self, held: _Held) -> None:
        """One lane to its end. A lane that crashes is a bug of ours: it is said, and no other lane notices."""
        lane = held.lane
        try:
            with held.scope:
                crashes = 0
                while True:
                    began_at = anyio.current_time()
                    try:
                        await lane.run()
                        break
                    except Exception as bug:  # noqa: BLE001 - a supervision point
                        crashes = 1 if anyio.current_time() - began_at > _SOUND_S else crashes + 1
                        delay_s = backoff_s(crashes, 1.0, _BACKOFF_LAST_S)
                        said = {"reason": str(bug)} if isinstance(bug, PollerError) else {"exc_info": bug}
                        if is_said(crashes):
                            facts = {"channel_id": lane.channel_id, "crashes": crashes, "retry_in": delay_s}
                            self._recorder.event("error", "lane_failed", **facts, **said)
                        await lane.wait_out(delay_s)
            if not self._is_draining and not held.scope.cancelled_caught:
                await self._hand_back(lane.channel_id)
        finally:
            # Only now: a beat that still finds the lane ours must not start it a second time.
            del self._held[lane.channel_id]
            held.is_done.set()
            self._recorder.lane_left(lane.channel_id)

    async def _hand_back(self, channel_id: int) -> None:
        try:
            await self._leases.release([channel_id])
            reach("fleet.released")
        except Defer as away:
            # The next beat finds it ours still, and it is walked on until it can be handed back.
            self._recorder.event("warning", "hand_back_deferred", channel_id=channel_id, reason=str(away))
