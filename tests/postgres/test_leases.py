"""Leases: one holder a lane, fair shares, nothing stolen back, everything judged by the database's clock."""

from __future__ import annotations

import anyio
import asyncpg
import pytest

from poller.postgres.leases import Leases
from poller.postgres.statements import load

TTL_S = 15.0


class Fleet:
    """One database with active tasks, and replicas that work on it."""

    def __init__(self, dsn, open_database):
        self.dsn = dsn
        self._open = open_database

    async def replica(self, name: str, ttl_s: float = TTL_S) -> Leases:
        return Leases(await self._open(self.dsn), load("fork"), name, ttl_s, version="1.2.3")

    async def run(self, script: str) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.dsn)
        try:
            return await connection.fetch(script)
        finally:
            await connection.close()

    async def work(self, *channels: int) -> None:
        """Exactly these channels have an active task."""
        await self.run("UPDATE tasks SET status = 'SUCCESS'")
        for channel in channels:
            await self.run(
                f"INSERT INTO tasks (platform, channel_id, status) VALUES ('custompass', {channel}, 'SUBMITTED')"
            )

    async def expire(self, name: str) -> None:
        """As if *name* had been silent for longer than its leases last."""
        past = "now() - interval '1 s'"
        await self.run(f"UPDATE poller.lane SET lease_until = {past} WHERE holder = '{name}'")
        await self.run(f"UPDATE poller.replica SET seen_until = {past} WHERE id = '{name}'")


@pytest.fixture
async def fleet(make_database, open_database):
    return Fleet(await make_database("fork"), open_database)


def held(beat) -> list[int]:
    return sorted(lane.channel_id for lane in beat.lanes)


async def test_one_replica_takes_every_lane_with_work(fleet):
    with anyio.fail_after(30):
        await fleet.work(1, 2, 3)
        beat = await (await fleet.replica("a")).beat()
        assert held(beat) == [1, 2, 3]
        assert (beat.replicas, beat.lanes_with_work, beat.share, beat.is_all_paused) == (1, 3, 3, False)
        (lane, *_) = beat.lanes
        assert (lane.has_work, lane.is_paused, lane.breaker, lane.breaker_failures) == (True, False, "closed", 0)
        assert lane.triggered_at_s is lane.pass_started_at_s is lane.breaker_until_s is None
        ((now_s,),) = await fleet.run("SELECT extract(epoch FROM now())::float8")
        assert 0 <= now_s - lane.now_s < 30


async def test_a_replica_that_is_leaving_keeps_its_lanes_and_takes_no_other(fleet):
    with anyio.fail_after(30):
        await fleet.work(1, 2)
        leaving = await fleet.replica("a")
        await leaving.beat()
        await fleet.work(1, 2, 3)
        beat = await leaving.beat(is_leaving=True)
        assert (held(beat), beat.share) == ([1, 2], 3)
        assert held(await leaving.beat()) == [1, 2, 3]


async def test_a_fleet_without_work_beats_all_the_same(fleet):
    with anyio.fail_after(30):
        beat = await (await fleet.replica("a")).beat()
        assert (beat.lanes, beat.replicas, beat.lanes_with_work, beat.share) == ((), 1, 0, 0)


@pytest.mark.parametrize(("replicas", "lanes", "most"), [(2, 4, 2), (3, 9, 3), (3, 4, 2), (2, 1, 1)])
async def test_lanes_are_shared_fairly_by_replicas_that_come_at_once(fleet, replicas, lanes, most):
    with anyio.fail_after(30):
        await fleet.work(*range(1, lanes + 1))
        members = [await fleet.replica(f"r{number}") for number in range(replicas)]
        # All are known before anybody takes.
        await fleet.run(
            "INSERT INTO poller.replica (id, seen_until) SELECT 'r' || n, now() + interval '15 s' "
            f"FROM generate_series(0, {replicas - 1}) n"
        )
        beats = []

        async def beat(member):
            beats.append(await member.beat())

        for _ in range(2):
            beats.clear()
            async with anyio.create_task_group() as group:
                for member in members:
                    group.start_soon(beat, member)
        taken = [lane for beat in beats for lane in held(beat)]
        assert sorted(taken) == list(range(1, lanes + 1))
        assert max(len(held(beat)) for beat in beats) <= most
        assert {beat.share for beat in beats} == {most}


async def test_a_lane_is_never_held_by_two_however_they_race(fleet):
    with anyio.fail_after(60):
        await fleet.work(*range(1, 9))
        members = {name: await fleet.replica(name) for name in "abcd"}
        for _ in range(8):
            beats = {}

            async def beat(name, beats=beats):
                beats[name] = await members[name].beat()

            async with anyio.create_task_group() as group:
                for name in members:
                    group.start_soon(beat, name)
            taken = [lane for each in beats.values() for lane in held(each)]
            assert len(taken) == len(set(taken))
            rows = await fleet.run("SELECT channel_id, holder FROM poller.lane WHERE holder IS NOT NULL")
            assert {(row["channel_id"], row["holder"]) for row in rows} == {
                (lane, name) for name, each in beats.items() for lane in held(each)
            }
            await fleet.run("UPDATE poller.lane SET lease_until = now() - interval '1 s' WHERE random() > 0.5")
            await fleet.run("UPDATE poller.lane SET holder = NULL WHERE random() > 0.5")


async def test_a_newcomer_gets_its_share_as_soon_as_the_other_gives_back(fleet):
    with anyio.fail_after(30):
        await fleet.work(1, 2, 3, 4)
        old, new = await fleet.replica("old"), await fleet.replica("new")
        assert held(await old.beat()) == [1, 2, 3, 4]
        assert held(await new.beat()) == []
        beat = await old.beat()
        assert (len(beat.lanes), beat.share) == (4, 2)
        await old.release([2, 4])
        assert held(await new.beat()) == [2, 4]
        assert held(await old.beat()) == [1, 3]


async def test_lanes_of_a_silent_replica_go_to_the_living(fleet):
    with anyio.fail_after(30):
        await fleet.work(1, 2)
        dead, alive = await fleet.replica("dead"), await fleet.replica("alive")
        await dead.beat()
        assert held(await alive.beat()) == []
        await fleet.expire("dead")
        beat = await alive.beat()
        assert (held(beat), beat.replicas, beat.share) == ([1, 2], 1, 2)


async def test_a_frozen_replica_takes_nothing_back_when_it_wakes(fleet):
    with anyio.fail_after(30):
        await fleet.work(1, 2)
        frozen, other = await fleet.replica("frozen"), await fleet.replica("other")
        await frozen.beat()
        await fleet.expire("frozen")
        await other.beat()
        assert await frozen.start_pass(1) is None
        await frozen.end_pass(1, {"asked": 1})
        await frozen.save_breaker(1, "open", 30.0, 9, 1)
        assert held(await frozen.beat()) == []
        assert held(await other.beat()) == [1, 2]
        (lane, _) = await other.lanes_overview()
        assert (lane["breaker"], lane["pass_counts"], lane["holder"]) == ("closed", {}, "other")


async def test_an_expired_lease_that_nobody_took_is_kept(fleet):
    with anyio.fail_after(30):
        await fleet.work(1)
        replica = await fleet.replica("a")
        await replica.beat()
        await fleet.expire("a")
        assert await replica.start_pass(1) is not None
        assert held(await replica.beat()) == [1]


async def test_a_lease_from_the_future_is_one_whose_clock_was_set_back(fleet):
    with anyio.fail_after(30):
        await fleet.work(1, 2)
        dead, alive = await fleet.replica("dead"), await fleet.replica("alive")
        await dead.beat()
        await fleet.run("UPDATE poller.lane SET lease_until = now() + interval '1 hour'")
        await fleet.run("UPDATE poller.replica SET seen_until = now() + interval '1 hour'")
        beat = await alive.beat()
        assert (held(beat), beat.replicas) == ([1, 2], 1)


async def test_leaving_gives_everything_back_at_once(fleet):
    with anyio.fail_after(30):
        await fleet.work(1, 2)
        leaving, staying = await fleet.replica("leaving"), await fleet.replica("staying")
        await leaving.beat()
        await leaving.release()
        beat = await staying.beat()
        assert (held(beat), beat.replicas) == ([1, 2], 1)


async def test_a_lane_whose_work_ended_is_kept_but_not_counted_nor_taken(fleet):
    with anyio.fail_after(30):
        await fleet.work(1, 2)
        replica = await fleet.replica("a")
        await replica.beat()
        await fleet.work(2)
        beat = await replica.beat()
        assert [(lane.channel_id, lane.has_work) for lane in beat.lanes] == [(1, False), (2, True)]
        assert beat.lanes_with_work == 1
        await replica.release([1])
        assert held(await replica.beat()) == [2]
        await fleet.work(1, 2)
        assert held(await replica.beat()) == [1, 2]


async def test_a_beat_writes_no_lane_that_others_hold_and_that_did_not_change(fleet):
    with anyio.fail_after(30):
        await fleet.work(1, 2, 3)
        holder, looker = await fleet.replica("holder"), await fleet.replica("looker")
        await holder.beat()
        await looker.beat()
        before = await fleet.run("SELECT channel_id, xmin, ctid FROM poller.lane ORDER BY 1")
        await looker.beat()
        assert await fleet.run("SELECT channel_id, xmin, ctid FROM poller.lane ORDER BY 1") == before


class Counting:
    """A database that notes the names of the statements it runs."""

    def __init__(self, database):
        self._database = database
        self.names: list[str] = []

    async def fetch(self, statement, *args, **options):
        self.names.append(statement.name)
        return await self._database.fetch(statement, *args, **options)


async def test_a_beat_is_three_statements_however_many_lanes_there_are(fleet, open_database):
    with anyio.fail_after(30):
        await fleet.work(*range(1, 31))
        database = Counting(await open_database(fleet.dsn))
        replica = Leases(database, load("fork"), "a", TTL_S)
        for _ in range(2):
            assert len((await replica.beat()).lanes) == 30
        assert database.names == ["discover", "renew", "take"] * 2


async def test_passes_are_noted_for_the_next_holder(fleet):
    with anyio.fail_after(30):
        await fleet.work(7)
        first, second = await fleet.replica("first"), await fleet.replica("second")
        await first.beat()
        started_s = await first.start_pass(7)
        await first.end_pass(7, {"asked": 3, "anomalies": {"stranger": 1}})
        await first.save_breaker(7, "open", 30.0, 5, 2)
        await first.release()
        (lane,) = (await second.beat()).lanes
        assert lane.pass_started_at_s == pytest.approx(started_s)
        assert (lane.breaker, lane.breaker_failures) == ("open", 5)
        assert 20 < lane.breaker_until_s - lane.now_s <= 30
        (row,) = await second.lanes_overview()
        assert row["pass_counts"] == {"asked": 3, "anomalies": {"stranger": 1}}
        assert (row["holder"], row["is_held"], row["concurrency"]) == ("second", True, 2)
        assert row["pass_ended_at_s"] >= started_s
        await second.save_breaker(7, "closed", None, 0, 4)
        (lane,) = (await second.beat()).lanes
        assert (lane.breaker, lane.breaker_until_s) == ("closed", None)


async def test_a_trigger_reaches_every_lane_and_lifts_no_pause(fleet):
    with anyio.fail_after(30):
        await fleet.work(1, 2)
        replica, other = await fleet.replica("a"), await fleet.replica("b")
        await replica.beat()
        await replica.pause(2, "second writer")
        assert await other.trigger() == 2
        lanes = (await replica.beat()).lanes
        assert all(lane.now_s - lane.triggered_at_s < 30 for lane in lanes)
        assert [lane.is_paused for lane in lanes] == [False, True]


async def test_a_pause_is_fleet_wide_and_survives_every_replica(fleet):
    with anyio.fail_after(30):
        await fleet.work(1, 2)
        first = await fleet.replica("first")
        await first.beat()
        await first.pause(1, "second writer")
        await first.pause(None, "")
        await first.release()
        later = await fleet.replica("later")
        beat = await later.beat()
        assert beat.is_all_paused
        assert [lane.is_paused for lane in beat.lanes] == [True, False]
        reasons = [row["pause_reason"] for row in await later.lanes_overview()]
        assert reasons == ["second writer", "all lanes"]
        await later.resume(None)
        beat = await later.beat()
        assert not beat.is_all_paused
        assert [lane.is_paused for lane in beat.lanes] == [True, False]
        await later.resume(1)
        assert [lane.is_paused for lane in (await later.beat()).lanes] == [False, False]
        assert [row["pause_reason"] for row in await later.lanes_overview()] == ["", ""]


async def test_a_channel_may_be_paused_before_it_has_any_task(fleet):
    with anyio.fail_after(30):
        replica = await fleet.replica("a")
        await replica.pause(9, "by hand")
        assert held(await replica.beat()) == []
        await fleet.work(9)
        (lane,) = (await replica.beat()).lanes
        assert (lane.channel_id, lane.is_paused) == (9, True)


async def test_the_fleet_is_listed_and_old_names_are_forgotten(fleet):
    with anyio.fail_after(30):
        await fleet.work(1)
        replica = await fleet.replica("a")
        await fleet.run("INSERT INTO poller.replica (id, seen_until) VALUES ('ancient', now() - interval '2 hours')")
        await replica.beat()
        (row,) = await replica.replicas_overview()
        assert (row["id"], row["version"], row["is_live"], row["lanes"]) == ("a", "1.2.3", True, 1)
        assert await fleet.run("SELECT id FROM poller.replica") == [("a",)]


async def test_beats_triggers_and_pauses_at_once_never_deadlock(fleet):
    with anyio.fail_after(60):
        await fleet.work(*range(1, 13))
        members = [await fleet.replica(name) for name in "abc"]

        async def busy(member, number):
            for turn in range(6):
                await member.beat()
                await member.trigger()
                await member.pause(1 + (turn + number) % 12, "x")
                await fleet.run(f"UPDATE tasks SET status = CASE WHEN channel_id % 3 = {turn % 3} THEN 'SUCCESS' END")
                await member.release([2, 1])

        async with anyio.create_task_group() as group:
            for number, member in enumerate(members):
                group.start_soon(busy, member, number)
