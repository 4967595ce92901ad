"""Which lanes a replica walks: what comes, what goes, what crashes, and how all of it ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import anyio
import pytest

from poller.errors import DatabaseAway, NotPermitted
from poller.fleet import Fleet
from poller.lane import Lane
from poller.postgres.leases import Beat, LaneState
from tests.bounded import within

LIMIT_S = 30.0
INTERVAL_S = 30.0


def state(channel_id: int, **changes: Any) -> LaneState:
    known = LaneState(channel_id, True, False, None, None, "closed", None, 0, 1000.0)
    return known._replace(**changes)


def beat(*lanes: LaneState, share: int = 100, is_all_paused: bool = False) -> Beat:
    return Beat(lanes, is_all_paused, 1, len(lanes), share)


class Leases:
    """Gives each of *beats* in turn, the last one for ever, without the lanes handed back; an exception is raised."""

    def __init__(self, *beats: Beat | Exception) -> None:
        self._beats = list(beats)
        self.count = 0
        self.released: list[Sequence[int] | None] = []
        self.away = 0
        """How often handing back meets an outage."""
        self.beats_last: anyio.Event | None = None
        """What every beat waits for."""

    def then(self, beat: Beat | Exception) -> None:
        self._beats.append(beat)

    async def beat(self, *, is_leaving: bool = False) -> Beat:
        self.count += 1
        if self.beats_last is not None:
            await self.beats_last.wait()
        found = self._beats.pop(0) if len(self._beats) > 1 else self._beats[0]
        if isinstance(found, Exception):
            raise found
        gone = {channel_id for ids in self.released for channel_id in ids or ()}
        return found._replace(lanes=tuple(lane for lane in found.lanes if lane.channel_id not in gone))

    async def release(self, channel_ids: Sequence[int] | None = None) -> None:
        if self.away:
            self.away -= 1
            raise DatabaseAway("lost")
        self.released.append(channel_ids)


class Asker:
    is_probing = False

    def __init__(self) -> None:
        self.restored: tuple[str, float, int] | None = None

    def restore(self, state: str, hold_s: float, failures: int) -> None:
        self.restored = (state, hold_s, failures)


class Walker:
    """A lane that does what *behave* says; it leaves when told."""

    def __init__(self, channel_id: int, behave: Callable[[Walker], Any] | None = None) -> None:
        self.channel_id = channel_id
        self.asker = Asker()
        self.is_paused = False
        self.runs = 0
        self.triggers = 0
        self.due_in_s: float | None = None
        self.left = anyio.Event()
        self.ended = anyio.Event()
        self._behave = behave

    async def run(self) -> None:
        self.runs += 1
        try:
            if self._behave is not None:
                await self._behave(self)
            await self.left.wait()
        finally:
            self.ended.set()

    def leave(self) -> None:
        self.left.set()

    def trigger(self) -> None:
        self.triggers += 1

    def set_due(self, in_s: float) -> None:
        self.due_in_s = in_s

    def set_flags(self, *, is_paused: bool, has_work: bool) -> None:
        self.is_paused = is_paused

    async def wait_out(self, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            await self.left.wait()


class Recorder:
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []

    def lanes(self, held: int, paused: int, waiting: int) -> None:
        pass

    def lane_left(self, channel_id: int) -> None:
        pass

    def event(self, level: str, name: str, **facts: object) -> None:
        self.events.append((name, facts))


class Site:
    """A fleet with the walkers that it opened, by channel, in order."""

    def __init__(
        self, *beats: Beat | Exception, behave: Callable[[Walker], Any] | None = None, renewal_s: float = 0.01
    ) -> None:
        self.leases = Leases(*beats)
        self.recorder = Recorder()
        self.walkers: dict[int, list[Walker]] = {}
        self._behave = behave
        self.fleet = Fleet(
            self.leases,
            self._open,
            self.recorder,
            interval_s=INTERVAL_S,
            renewal_s=renewal_s,
            start_delay_s=0.0,
        )

    def _open(self, channel_id: int) -> Lane:
        walker = Walker(channel_id, self._behave)
        self.walkers.setdefault(channel_id, []).append(walker)
        return cast(Lane, walker)

    async def beaten(self, count: int = 2) -> None:
        """Wait for *count* more renewals."""
        wanted = self.leases.count + count
        while self.leases.count < wanted:
            await anyio.sleep(0.002)

    def of(self, channel_id: int) -> Walker:
        return self.walkers[channel_id][-1]


@within(LIMIT_S)
async def test_a_lane_is_walked_once_however_often_it_is_renewed() -> None:
    site = Site(beat(state(1), state(2)))
    async with anyio.create_task_group() as group:
        group.start_soon(site.fleet.run)
        await site.beaten(5)
        assert {channel: [walker.runs for walker in found] for channel, found in site.walkers.items()} == {
            1: [1],
            2: [1],
        }
        group.cancel_scope.cancel()


@within(LIMIT_S)
async def test_a_lane_that_went_elsewhere_is_dropped_at_once_and_may_come_back() -> None:
    site = Site(beat(state(1), state(2)))
    async with anyio.create_task_group() as group:
        group.start_soon(site.fleet.run)
        await site.beaten()
        site.leases.then(beat(state(2)))
        await site.of(1).ended.wait()
        await site.beaten()
        assert set(site.fleet.lanes) == {2}
        # Nothing is handed back that is no longer ours.
        assert site.leases.released == []
        site.leases.then(beat(state(1), state(2)))
        await site.beaten(3)
        assert len(site.walkers[1]) == 2
        assert len(site.walkers[2]) == 1
        group.cancel_scope.cancel()


@within(LIMIT_S)
async def test_lanes_beyond_the_fair_share_end_their_pass_and_are_handed_back() -> None:
    site = Site(beat(state(1), state(2), state(3)))
    async with anyio.create_task_group() as group:
        group.start_soon(site.fleet.run)
        await site.beaten()
        site.leases.then(beat(state(1), state(2), state(3), share=1))
        await site.of(3).ended.wait()
        await site.of(2).ended.wait()
        assert not site.of(1).left.is_set()
        while not site.leases.released:
            await anyio.sleep(0.002)
        site.leases.then(beat(state(1)))
        await site.beaten(3)
        assert {ids[0] for ids in site.leases.released if ids} == {2, 3}
        group.cancel_scope.cancel()


@within(LIMIT_S)
async def test_a_lane_without_work_is_no_part_of_the_share() -> None:
    site = Site(beat(state(1), state(2, has_work=False), share=1))
    async with anyio.create_task_group() as group:
        group.start_soon(site.fleet.run)
        await site.beaten(4)
        assert not site.of(1).left.is_set()
        assert not site.of(2).left.is_set()
        group.cancel_scope.cancel()


@within(LIMIT_S)
async def test_a_lane_that_crashes_is_said_started_again_and_harms_no_other() -> None:
    async def crashes_once(walker: Walker) -> None:
        if walker.channel_id == 1 and walker.runs == 1:
            raise ZeroDivisionError

    site = Site(beat(state(1), state(2)), behave=crashes_once)
    async with anyio.create_task_group() as group:
        group.start_soon(site.fleet.run)
        await site.beaten()
        while site.of(1).runs < 2:
            await anyio.sleep(0.01)
        assert (site.of(2).runs, len(site.walkers[1])) == (1, 1)
        (failure,) = [facts for name, facts in site.recorder.events if name == "lane_failed"]
        assert failure["channel_id"] == 1
        assert isinstance(failure["exc_info"], ZeroDivisionError)
        group.cancel_scope.cancel()


@within(LIMIT_S)
async def test_a_lane_that_keeps_crashing_is_said_at_growing_distance(monkeypatch) -> None:
    async def lacks_a_right(walker: Walker) -> None:
        if walker.runs <= 40:
            raise NotPermitted("database: permission denied for table users")

    monkeypatch.setattr("poller.fleet.backoff_s", lambda *_: 0.001)
    site = Site(beat(state(1)), behave=lacks_a_right)
    async with anyio.create_task_group() as group:
        group.start_soon(site.fleet.run)
        while not site.walkers or site.of(1).runs <= 40:
            await anyio.sleep(0.002)
        said = [facts for name, facts in site.recorder.events if name == "lane_failed"]
        assert [facts["crashes"] for facts in said] == [1, 2, 4, 8, 16, 32]
        assert all("permission denied for table users" in str(facts["reason"]) for facts in said)
        group.cancel_scope.cancel()


@within(LIMIT_S)
async def test_a_lane_that_keeps_crashing_holds_up_no_drain() -> None:
    async def crashes(walker: Walker) -> None:
        if not walker.left.is_set():
            raise ZeroDivisionError

    site = Site(beat(state(1)), behave=crashes)
    async with anyio.create_task_group() as group:
        group.start_soon(site.fleet.run)
        while not site.walkers or site.of(1).runs < 1:
            await anyio.sleep(0.002)
        started = anyio.current_time()
        assert await site.fleet.drain(20.0)
        assert anyio.current_time() - started < 0.9
        group.cancel_scope.cancel()


@within(LIMIT_S)
async def test_draining_ends_all_lanes_and_hands_all_leases_back() -> None:
    site = Site(beat(state(1), state(2)))
    async with anyio.create_task_group() as group:
        group.start_soon(site.fleet.run)
        await site.beaten()
        assert await site.fleet.drain(5.0)
        assert site.leases.released == [None]
        assert site.fleet.lanes == {}


@within(LIMIT_S)
async def test_a_renewal_that_hangs_is_ended_before_leases_are_handed_back() -> None:
    site = Site(beat(state(1)))
    async with anyio.create_task_group() as group:
        group.start_soon(site.fleet.run)
        await site.beaten()
        site.leases.beats_last = anyio.Event()
        await site.beaten(1)
        count = site.leases.count
        assert await site.fleet.drain(5.0)
        assert site.leases.released == [None]
    # And the loop is over: a renewal now would take lanes again.
    assert site.leases.count == count


@within(LIMIT_S)
async def test_leases_are_handed_back_at_once_though_a_lane_is_still_settling() -> None:
    async def settles(walker: Walker) -> None:
        with anyio.CancelScope(shield=True):
            await is_settled.wait()

    is_settled = anyio.Event()
    site = Site(beat(state(1)), behave=settles)
    async with anyio.create_task_group() as group:
        group.start_soon(site.fleet.run)
        await site.beaten()
        try:
            assert not await site.fleet.drain(0.1)
            assert site.leases.released == [None]
            assert not site.of(1).ended.is_set()
        finally:
            is_settled.set()


@within(LIMIT_S)
async def test_an_outage_is_waited_out_until_the_drain_limit_before_leases_are_given_up(monkeypatch) -> None:
    monkeypatch.setattr("poller.fleet._HAND_BACK_LEAST_S", 0.1)
    site = Site(beat(state(1)))
    async with anyio.create_task_group() as group:
        group.start_soon(site.fleet.run)
        await site.beaten()
        site.leases.away = 3
        assert await site.fleet.drain(20.0)
        assert site.leases.released == [None]
        group.cancel_scope.cancel()


@within(LIMIT_S)
async def test_an_outage_that_outlasts_the_drain_limit_leaves_the_leases_and_is_said(monkeypatch) -> None:
    monkeypatch.setattr("poller.fleet._HAND_BACK_LEAST_S", 0.1)
    site = Site(beat(state(1)))
    async with anyio.create_task_group() as group:
        group.start_soon(site.fleet.run)
        await site.beaten()
        site.leases.away = 1000
        assert await site.fleet.drain(0.2)
        assert site.leases.released == []
        assert site.recorder.events[-1][0] == "hand_back_failed"


@within(LIMIT_S)
async def test_an_outage_while_leases_are_handed_back_is_met_by_another_try() -> None:
    site = Site(beat(state(1)))
    async with anyio.create_task_group() as group:
        group.start_soon(site.fleet.run)
        await site.beaten()
        site.leases.away = 2
        assert await site.fleet.drain(5.0)
        assert site.leases.released == [None]
        assert [name for name, _ in site.recorder.events] == ["hand_back_deferred"] * 2


@within(LIMIT_S)
async def test_draining_waits_no_longer_than_its_limit() -> None:
    async def hangs(walker: Walker) -> None:
        await anyio.sleep_forever()

    site = Site(beat(state(1)), behave=hangs)
    async with anyio.create_task_group() as group:
        group.start_soon(site.fleet.run)
        await site.beaten()
        assert not await site.fleet.drain(0.1)
        assert site.leases.released == [None]
        group.cancel_scope.cancel()


@within(LIMIT_S)
async def test_lanes_are_walked_on_while_the_database_is_away() -> None:
    site = Site(beat(state(1)), DatabaseAway("lost"), DatabaseAway("lost"), beat(state(1)))
    async with anyio.create_task_group() as group:
        group.start_soon(site.fleet.run)
        await site.beaten(4)
        assert (site.of(1).runs, len(site.walkers[1])) == (1, 1)
        assert not site.of(1).ended.is_set()
        assert [name for name, _ in site.recorder.events] == ["renewal_deferred"] * 2 + ["renewal_restored"]
        group.cancel_scope.cancel()


@within(LIMIT_S)
async def test_a_long_outage_is_said_at_growing_distance_and_its_end_once() -> None:
    site = Site(*[DatabaseAway("auth_failed")] * 9, beat(state(1)))
    async with anyio.create_task_group() as group:
        group.start_soon(site.fleet.run)
        await site.beaten(13)
        said = [(name, facts["failures"]) for name, facts in site.recorder.events]
        group.cancel_scope.cancel()
    assert said == [*(("renewal_deferred", count) for count in (1, 2, 4, 8)), ("renewal_restored", 9)]


@within(LIMIT_S)
async def test_rights_that_were_taken_away_end_the_fleet_and_are_not_swallowed() -> None:
    site = Site(NotPermitted("no rights"))
    with pytest.raises(ExceptionGroup) as caught:
        await site.fleet.run()
    assert caught.group_contains(NotPermitted)


@pytest.mark.parametrize(
    ("started_s", "due_in_s"),
    [(None, 0.0), (990.0, 20.0), (900.0, 0.0), (4600.0, INTERVAL_S)],
    ids=["never", "lately", "long ago", "by a clock that was set back since"],
)
@within(LIMIT_S)
async def test_a_new_holder_keeps_the_pace(started_s: float | None, due_in_s: float) -> None:
    site = Site(beat(state(1, pass_started_at_s=started_s)))
    async with anyio.create_task_group() as group:
        group.start_soon(site.fleet.run)
        await site.beaten()
        assert site.of(1).due_in_s == due_in_s
        group.cancel_scope.cancel()


@within(LIMIT_S)
async def test_a_new_holder_takes_over_the_breaker() -> None:
    site = Site(beat(state(1, breaker="open", breaker_until_s=1012.0, breaker_failures=7)))
    async with anyio.create_task_group() as group:
        group.start_soon(site.fleet.run)
        await site.beaten()
        assert site.of(1).asker.restored == ("open", 12.0, 7)
        group.cancel_scope.cancel()


@within(LIMIT_S)
async def test_a_trigger_is_followed_once_also_after_the_clock_was_set_back() -> None:
    site = Site(beat(state(1, pass_started_at_s=990.0)))
    async with anyio.create_task_group() as group:
        group.start_soon(site.fleet.run)
        await site.beaten()
        site.leases.then(beat(state(1, pass_started_at_s=990.0, triggered_at_s=995.0)))
        await site.beaten(4)
        assert site.of(1).triggers == 1
        # An hour back: this trigger is earlier than the one before, and is meant all the same.
        site.leases.then(beat(state(1, pass_started_at_s=-2600.0, triggered_at_s=-2500.0)))
        await site.beaten(4)
        assert site.of(1).triggers == 2
        group.cancel_scope.cancel()


@within(LIMIT_S)
async def test_a_trigger_from_before_the_last_pass_is_none() -> None:
    site = Site(beat(state(1, pass_started_at_s=990.0, triggered_at_s=980.0)))
    async with anyio.create_task_group() as group:
        group.start_soon(site.fleet.run)
        await site.beaten(3)
        assert site.of(1).triggers == 0
        group.cancel_scope.cancel()


@within(LIMIT_S)
async def test_a_pause_of_all_lanes_pauses_each() -> None:
    site = Site(beat(state(1), is_all_paused=True))
    async with anyio.create_task_group() as group:
        group.start_soon(site.fleet.run)
        await site.beaten(2)
        assert site.of(1).is_paused
        site.leases.then(beat(state(1)))
        await site.beaten(3)
        assert not site.of(1).is_paused
        group.cancel_scope.cancel()


@within(LIMIT_S)
async def test_waking_renews_at_once() -> None:
    site = Site(beat(state(1)))
    site.fleet._renewal_s = 3600.0
    async with anyio.create_task_group() as group:
        group.start_soon(site.fleet.run)
        await site.beaten(1)
        site.fleet.wake()
        await site.beaten(1)
        group.cancel_scope.cancel()
