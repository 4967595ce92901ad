"""The daemon beside a gateway that keeps its logs in another database and its balances in Redis."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import anyio
import asyncpg
import pytest

from poller.demo.fates import Lives
from poller.demo.simulator import Simulator
from tests.cache.server import RedisServer, needed
from tests.conftest import MakeDatabase
from tests.e2e.harness import KILL, TERM, Daemon, ending, fetchval, seeded, settled, until, upstream
from tests.postgres.conftest import make_proxy as make_proxy
from tests.postgres.proxy import Proxy

TASKS = 300
QUICK = Lives(seed=5, shortest_s=0.0, typical_s=0.01, longest_s=0.05)
MakeProxy = Callable[[str], Awaitable[tuple[Proxy, str]]]


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    needed()
    server = RedisServer()
    yield server
    server.close()


async def balances(dsn: str) -> dict[int, int]:
    connection = await asyncpg.connect(dsn)
    try:
        return {row["id"]: row["quota"] for row in await connection.fetch("SELECT id, quota FROM users")}
    finally:
        await connection.close()


def cache(redis: RedisServer, quotas: dict[int, int]) -> None:
    for user, quota in quotas.items():
        redis.cli("HSET", f"user:{user}", "Id", str(user), "Quota", str(quota))
        redis.cli("EXPIRE", f"user:{user}", "60")


def cached(redis: RedisServer, users: dict[int, int]) -> dict[int, int]:
    return {user: int(redis.hash(f"user:{user}")["Quota"]) for user in users}


async def wanted_logs(dsn: str, profile: str) -> int:
    """How many log rows the settlements of a gateway of *profile* come to."""
    only = {"documented": "refunded <> 0", "fork": "refunded <> 0 AND outcome = 'FAILURE'", "main": "refunded <> 0"}
    return int(str(await fetchval(dsn, f"SELECT count(*) FROM poller.ledger WHERE {only[profile]}")))


async def is_empty(dsn: str) -> bool:
    return not await fetchval(dsn, "SELECT count(*) FROM poller.outbox")


async def all_settled(dsn: str) -> bool:
    return await settled(dsn) >= TASKS


async def test_what_settles_while_logs_and_redis_are_down_arrives_when_they_are_back(
    make_database: MakeDatabase, make_proxy: MakeProxy, profile_name: str, redis: RedisServer, tmp_path: Path
) -> None:
    simulator = Simulator(lives=QUICK)
    dsn = await make_database(profile_name, migrated=False)
    logs = await make_database(profile_name, migrated=False)
    proxy, log_dsn = await make_proxy(logs)
    proxy.to_server = lambda data: None
    async with upstream(simulator) as url:
        await seeded(dsn, profile_name, TASKS, url, simulator)
        before = await balances(dsn)
        lines = await fetchval(dsn, "SELECT count(*) FROM logs")
        daemon = Daemon(dsn, tmp_path / "log", {"LOG_SQL_DSN": log_dsn, "REDIS_CONN_STRING": redis.url})
        with ending(daemon):
            await until(lambda: all_settled(dsn))
            await daemon.says("delivery_failed")
            assert await fetchval(dsn, "SELECT count(*) FROM logs") == lines
            waiting = int(str(await fetchval(dsn, "SELECT count(*) FROM poller.outbox WHERE kind = 'log'")))
            assert waiting == await wanted_logs(dsn, profile_name)
            after = await balances(dsn)
            assert before != after
            status, metrics = await daemon.get("/metrics")
            assert status == 200
            assert "custompass_outbox_rows" in metrics
            redis.start()
            cache(redis, before)
            proxy.to_server = lambda data: data
            await until(lambda: is_empty(dsn))
            daemon.signal(TERM)
            assert await daemon.ended() == 0
    assert await fetchval(logs, "SELECT count(*) FROM logs") == waiting
    assert cached(redis, after) == after


SLOWLY = """
CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.1); RETURN NULL; END $$;
CREATE TRIGGER slowly AFTER INSERT ON logs FOR EACH STATEMENT EXECUTE FUNCTION wait();
"""


async def test_kills_in_the_midst_of_delivering_double_no_log_row_and_lose_none(
    make_database: MakeDatabase, profile_name: str, tmp_path: Path
) -> None:
    simulator = Simulator(lives=Lives(seed=5, shortest_s=0.0, typical_s=2.0, longest_s=8.0))
    chance = random.Random(7)
    dsn = await make_database(profile_name, migrated=False)
    logs = await make_database(profile_name, migrated=False)
    connection = await asyncpg.connect(logs)
    await connection.execute(SLOWLY)
    await connection.close()
    settings = {"LOG_SQL_DSN": logs, "CUSTOM_PASS_LEASE_TTL": "1s", "CUSTOM_PASS_BATCH_SIZE": "7"}
    hits = 0
    async with upstream(simulator) as url:
        await seeded(dsn, profile_name, TASKS, url, simulator)
        for number in range(4 if profile_name == "main" else 2):
            daemon = Daemon(dsn, tmp_path / f"{number}.log", settings)
            with ending(daemon):
                await until(lambda: is_claimed_or_over(dsn))
                await anyio.sleep(chance.random() * 0.15)
                daemon.signal(KILL)
                await daemon.ended()
            hits += not await is_empty(dsn)
            # What the dead replica had claimed is free again.
            await fetchval(dsn, "UPDATE poller.outbox SET due_at = now() RETURNING 1")
        last = Daemon(dsn, tmp_path / "last.log", settings)
        with ending(last):
            await until(lambda: all_settled(dsn))
            await until(lambda: is_empty(dsn))
    assert hits >= 1, "too few kills met a daemon that was delivering"
    assert await fetchval(logs, "SELECT count(*) FROM logs") == await wanted_logs(dsn, profile_name)


async def is_claimed_or_over(dsn: str) -> bool:
    if await settled(dsn) and await fetchval(dsn, "SELECT count(*) FROM poller.outbox WHERE due_at > now()"):
        return True
    return await all_settled(dsn) and await is_empty(dsn)


async def test_a_one_shot_run_delivers_what_it_wrote_before_it_exits(
    make_database: MakeDatabase, redis: RedisServer, tmp_path: Path
) -> None:
    simulator = Simulator(lives=Lives(seed=5, shortest_s=0.0, typical_s=0.0, longest_s=0.001))
    dsn = await make_database("main", migrated=False)
    logs = await make_database("main", migrated=False)
    redis.start()
    async with upstream(simulator) as url:
        await seeded(dsn, "main", TASKS, url, simulator)
        before = await balances(dsn)
        cache(redis, before)
        settings = {"LOG_SQL_DSN": logs, "REDIS_CONN_STRING": redis.url, "CRYPTO_SECRET": "s"}
        once = Daemon(dsn, tmp_path / "log", settings, ("run", "--once"))
        with ending(once):
            assert await once.ended() in (0, 75), once.said()
        assert await settled(dsn) > 0
    assert await is_empty(dsn)
    assert await fetchval(logs, "SELECT count(*) FROM logs") == await wanted_logs(dsn, "main") > 0
    after = await balances(dsn)
    assert cached(redis, after) == after != before


async def test_a_one_shot_run_ends_in_time_when_nobody_takes_what_it_wrote(
    make_database: MakeDatabase, make_proxy: MakeProxy, tmp_path: Path
) -> None:
    simulator = Simulator(lives=Lives(seed=5, shortest_s=0.0, typical_s=0.0, longest_s=0.001))
    dsn = await make_database("main", migrated=False)
    proxy, log_dsn = await make_proxy(await make_database("main", migrated=False))
    proxy.to_client = lambda data: b""
    async with upstream(simulator) as url:
        await seeded(dsn, "main", 50, url, simulator)
        once = Daemon(dsn, tmp_path / "log", {"LOG_SQL_DSN": log_dsn}, ("run", "--once"))
        with ending(once):
            assert await once.ended() in (0, 75), once.said()
    assert await fetchval(dsn, "SELECT count(*) FROM poller.outbox") == await wanted_logs(dsn, "main")
