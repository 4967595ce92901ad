"""Replicas whose wall clocks are wrong, each in its own way, and jump while there is work."""

from __future__ import annotations

import signal

import anyio
import pytest

from tests.e2e.harness import until
from tests.faults.abilities import FAKETIME
from tests.faults.fake_clock import FakeClock
from tests.faults.stand import stand

LIMIT_S = 90
LEASE_S = 1
OPEN = "SELECT FROM inv.truth WHERE task_pk NOT IN (SELECT task_pk FROM poller.ledger)"
HELD = "SELECT DISTINCT holder FROM poller.lane WHERE lease_until > now()"
TOO_LONG = f"SELECT FROM poller.lane WHERE lease_until > now() + {2 * LEASE_S} * interval '1 s'"


async def test_wall_clocks_that_are_wrong_and_jump_change_neither_leases_nor_money(
    make_database, pg_server, nursery, tmp_path
):
    if FAKETIME is None:
        pytest.skip("no libfaketime on this machine: apt-get install libfaketime")
    dsn = await make_database("fork")
    clocks = [FakeClock(tmp_path / name) for name in ("slow", "fast")]
    with anyio.fail_after(LIMIT_S):
        socket = pg_server.folder / f".s.PGSQL.{pg_server.port}"
        async with nursery.attached(), stand(dsn, socket, "fork", shortest_s=4.0) as at:
            for clock, skew_s in zip(clocks, (-600, 600), strict=True):
                clock.set(skew_s)
            pace = at.settings | {"CUSTOM_PASS_LEASE_TTL": f"{LEASE_S}s"}
            children = [
                await nursery.spawn(pace | clock.preload(), tmp_path / f"{number}.log", is_fresh=True)
                for number, clock in enumerate(clocks)
            ]

            async def do_both_walk() -> bool:
                return len(await at.fetch(HELD)) == 2

            await until(do_both_walk, limit_s=30)
            for ahead_s in ((-600, 600), (-4200, 4200), (3000, -3000), (0, 7200)):
                for clock, child, each_s in zip(clocks, children, ahead_s, strict=True):
                    clock.set(each_s)
                    assert await clock.is_shown_by(child)
                assert await at.fetch(OPEN), "the clocks were to jump while there is work"
                assert await at.fetch(TOO_LONG) == []
            await until(at.is_drained, limit_s=60)
            for child in children:
                child.signal(signal.SIGTERM)
                assert await child.ended() == 0, child.said()
            assert [str(each) for each in await at.violations()] == []
