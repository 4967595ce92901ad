"""What the daemon does when the database or the rules of the house are not there."""

from __future__ import annotations

from pathlib import Path

import asyncpg

from poller.demo import world
from poller.demo.embedded import postgres
from poller.demo.fates import Lives
from poller.demo.simulator import Simulator
from tests.conftest import MakeDatabase
from tests.e2e.harness import (
    QUICK,
    TERM,
    Daemon,
    assert_money_is_right,
    ending,
    fetchval,
    seeded,
    settled,
    until,
    upstream,
)
from tests.ports import free_port


async def test_a_database_that_comes_goes_and_comes_again_costs_no_settlement(tmp_path: Path) -> None:
    port, data = free_port(), tmp_path / "data"
    simulator = Simulator(lives=QUICK)
    dsn = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    with postgres(keep=data) as server:
        # Before there is a daemon: one that finds no tables of a gateway does not stay.
        connection = await asyncpg.connect(server.dsn())
        await world.make_gateway(connection, "main")
        await connection.close()
    daemon = Daemon(dsn, tmp_path / "log", {})
    with ending(daemon):
        await daemon.says("database_away")
        assert (await daemon.get("/livez"))[0] == 200
        assert (await daemon.get("/readyz"))[0] == 503
        async with upstream(simulator) as url:
            with postgres(port=port, listen="127.0.0.1", keep=data):
                await seeded(dsn, "main", 400, url, simulator)
                await until(lambda: at_least(dsn, 20))
                assert (await daemon.get("/readyz"))[0] == 200
            assert (await daemon.get("/livez"))[0] == 200
            assert (await daemon.get("/readyz"))[0] == 503
            with postgres(port=port, listen="127.0.0.1", keep=data):
                await until(lambda: at_least(dsn, 400))
                await assert_money_is_right(dsn, "main")
                daemon.signal(TERM)
                assert await daemon.ended() == 0


async def at_least(dsn: str, count: int) -> bool:
    try:
        return await settled(dsn) >= count
    except (OSError, asyncpg.PostgresError):
        return False


async def test_in_the_fork_a_second_writer_stops_its_channel_until_somebody_resumes_it(
    make_database: MakeDatabase, tmp_path: Path
) -> None:
    simulator = Simulator(lives=Lives(seed=9, shortest_s=1e6, typical_s=1.0, longest_s=1e7))
    dsn = await make_database("fork", migrated=False)
    async with upstream(simulator) as url:
        await seeded(dsn, "fork", 100, url, simulator)
        daemon = Daemon(dsn, tmp_path / "log", {})
        with ending(daemon):
            await until(lambda: lanes(dsn, "pass_ended_at IS NOT NULL", 4))
            await fetchval(
                dsn,
                """UPDATE tasks SET status = 'SUCCESS', progress = '100%', finish_time = now.s, updated_at = now.s
                FROM (SELECT extract(epoch FROM now())::bigint AS s) AS now
                WHERE id = (SELECT min(id) FROM tasks WHERE channel_id = 2)""",
            )
            await daemon.says("second_writer_seen")
            assert "UPDATE_TASK=false" in daemon.said()
            await until(lambda: lanes(dsn, "is_paused AND pause_reason = 'second_writer' AND channel_id = 2", 1))
            assert "custompass_second_writer 1.0" in (await daemon.get("/metrics"))[1]
            resumed = Daemon(dsn, tmp_path / "resume.log", {}, ("resume", "2"))
            assert await resumed.ended() == 0
            assert await lanes(dsn, "is_paused", 0)
            daemon.signal(TERM)
            assert await daemon.ended() == 0


async def lanes(dsn: str, condition: str, count: int) -> bool:
    try:
        return await fetchval(dsn, f"SELECT count(*) FROM poller.lane WHERE {condition}") == count
    except asyncpg.UndefinedTableError:
        return False


async def test_a_role_that_may_not_make_the_schema_is_told_what_to_do(
    make_database: MakeDatabase, tmp_path: Path
) -> None:
    dsn = await make_database("main", migrated=False)
    await fetchval(dsn, "DO $$ BEGIN CREATE ROLE lowly LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    await fetchval(dsn, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO lowly")
    daemon = Daemon(dsn.replace("postgres@", "lowly@", 1), tmp_path / "log", {})
    with ending(daemon):
        assert await daemon.ended() == 78
    assert "poller migrate --print" in daemon.said()
