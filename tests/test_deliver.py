"""The loops that empty the outbox, with everything real: PostgreSQL twice, Redis, and the recorder."""

from __future__ import annotations

import hashlib
import hmac

import anyio
import asyncpg
import pytest

from poller.cache.redis import Cache, TokenCourier, UserCourier
from poller.core.model import Secret
from poller.deliver import Deliverer, Deliveries
from poller.postgres.logs_elsewhere import LogCourier, LogDatabase
from poller.postgres.outbox import Outbox
from poller.postgres.statements import load
from tests.cache.conftest import redis_server as redis_server
from tests.ops.things import recorder
from tests.postgres.conftest import make_proxy as make_proxy
from tests.postgres.gateway import failed, open_site, succeeded

LIMIT_S = 60.0


class World:
    """A gateway of profile main with its logs elsewhere and its balances cached."""

    def __init__(self, site, logs, log_dsn, redis, open_database) -> None:
        self.site = site
        self.logs = logs
        self.redis = redis
        self.recorder, self.lines, _ = recorder()
        self.outbox = Outbox(site.database, load("main"))
        self.cache = Cache(Secret(redis.url), life_s=60)

        async def open_logs():
            return await open_database(log_dsn)

        self.log_courier = LogCourier(LogDatabase(open_logs), load("main"))
        self.user_courier = UserCourier(self.cache)
        self.token_courier = TokenCourier(self.cache, Secret("s"), self.outbox.token_keys)

    def deliveries(self) -> Deliveries:
        couriers = {"log": self.log_courier, "user_cache": self.user_courier, "token_cache": self.token_courier}
        return Deliveries(self.outbox, couriers, self.recorder, stale_s=300)

    async def settled(self, count: int = 1) -> list[int]:
        """Settle *count* failed tasks of users whose balance of 550 is cached."""
        channel, users = await self.site.gateway.channel(), []
        for _ in range(count):
            user = await self.site.gateway.user(550)
            self.redis.cli("HSET", f"user:{user}", "Id", str(user), "Quota", "550")
            await self.site.gateway.task(user, channel, 450)
            users.append(user)
        await self.site.store.settle([failed(task) for task in await self.site.tasks(channel)])
        return users

    async def expect_delivered(self, users: list[int]) -> None:
        assert await self.outbox.waiting() == (0, 0.0)
        assert [self.redis.hash(f"user:{user}")["Quota"] for user in users] == ["1000"] * len(users)
        assert await self.logs.fetchval("SELECT count(*) FROM logs") == len(users)

    async def make_due(self) -> None:
        await self.site.gateway.connection.execute("UPDATE poller.outbox SET due_at = now()")

    def metric(self, name: str, **labels: str) -> float | None:
        return self.recorder.metrics.registry.get_sample_value(name, labels)


@pytest.fixture
async def world(make_database, open_database, make_proxy, redis_server):
    site = await open_site(make_database, open_database, "main", logs_elsewhere=True, moves_caches=True)
    dsn = await make_database("main", migrated=False)
    proxy, log_dsn = await make_proxy(dsn)
    logs = await asyncpg.connect(dsn)
    made = World(site, logs, log_dsn, redis_server, open_database)
    made.proxy = proxy
    yield made
    await made.cache.close()
    await logs.close()
    await site.gateway.connection.close()


async def test_everything_reaches_where_it_belongs_and_the_outbox_is_empty(world):
    with anyio.fail_after(LIMIT_S):
        users = await world.settled(250)
        await world.deliveries().drain(LIMIT_S)
        await world.expect_delivered(users)
    assert world.metric("custompass_deliveries_total", kind="log") == 250
    assert world.metric("custompass_deliveries_total", kind="user_cache") == 250


async def test_what_waits_for_a_cache_that_was_taken_out_of_the_settings_is_forgotten_when_no_hash_is_so_old(world):
    with anyio.fail_after(LIMIT_S):
        await world.settled(2)
        without_redis = Deliveries(world.outbox, {}, world.recorder, stale_s=300)
        await without_redis.look()
        assert (await world.outbox.waiting()).depth == 4
        await world.site.gateway.connection.execute("UPDATE poller.outbox SET created_at = now() - interval '301 s'")
        await world.deliveries().look()
        assert (await world.outbox.waiting()).depth == 4
        await without_redis.look()
        rows = await world.site.gateway.connection.fetch("SELECT kind FROM poller.outbox")
        assert [row["kind"] for row in rows] == ["log", "log"]


async def test_a_turn_is_bounded_and_the_next_follows_at_once_while_there_is_more(world):
    with anyio.fail_after(LIMIT_S):
        await world.settled(150)
        loop = Deliverer("log", world.outbox, world.log_courier, world.recorder)
        assert await loop.turn() == 0.0
        assert await world.logs.fetchval("SELECT count(*) FROM logs") == 100
        assert await loop.turn() > 0.0
        assert await world.logs.fetchval("SELECT count(*) FROM logs") == 150


async def test_redis_and_log_database_down_lose_nothing_and_are_caught_up_with(world):
    with anyio.fail_after(LIMIT_S):
        world.redis.stop()
        world.proxy.to_server = lambda data: None
        users = await world.settled(3)
        deliveries = world.deliveries()
        waits = [[await loop.turn() for _ in range(2)] for loop in deliveries.loops]
        assert waits[0][0] > 0
        await deliveries.drain(LIMIT_S)
        await deliveries.look()
        assert (await world.outbox.waiting()).depth == 6
        assert world.metric("custompass_outbox_rows") == 6
        assert world.metric("custompass_outbox_oldest_seconds") > 0
        assert world.metric("custompass_delivery_failures_total", kind="user_cache", reason="connection") >= 3
        assert [await world.site.gateway.balance(user) for user in users] == [(1000, 4550)] * 3
        world.redis.start()
        for user in users:
            world.redis.cli("HSET", f"user:{user}", "Id", str(user), "Quota", "550")
        world.proxy.to_server = lambda data: data
        await world.make_due()
        await deliveries.drain(LIMIT_S)
        await world.expect_delivered(users)


@pytest.mark.parametrize("lost", ["request", "answer"])
async def test_a_log_database_that_is_lost_in_the_midst_of_a_delivery_has_every_row_once_in_the_end(world, lost):
    is_added = False

    def cut(data: bytes) -> bytes | None:
        nonlocal is_added
        is_added = is_added or b"poller:add_logs" in data
        if is_added and lost == "request":
            return None
        if is_added and b"COMMIT" in data:
            world.proxy.to_client = lambda data: None
        return data

    with anyio.fail_after(LIMIT_S):
        users = await world.settled(3)
        world.proxy.to_server = cut
        await world.deliveries().drain(LIMIT_S)
        assert await world.logs.fetchval("SELECT count(*) FROM logs") == (3 if lost == "answer" else 0)
        assert (await world.outbox.waiting()).depth == 3
        world.proxy.to_server = world.proxy.to_client = lambda data: data
        await world.make_due()
        await world.deliveries().drain(LIMIT_S)
        await world.expect_delivered(users)


async def test_a_log_row_that_is_refused_waits_for_a_person_and_arrives_once_it_is_taken(world):
    with anyio.fail_after(LIMIT_S):
        users = await world.settled(3)
        await world.logs.execute(f"ALTER TABLE logs ADD CONSTRAINT odd CHECK (user_id <> {users[1]})")
        await world.deliveries().drain(LIMIT_S)
        assert await world.logs.fetchval("SELECT count(*) FROM logs") == 2
        (waiting,) = await world.site.gateway.rows("SELECT kind, last_error FROM poller.outbox")
        assert waiting["kind"] == "log"
        assert waiting["last_error"] != ""
        await world.logs.execute("ALTER TABLE logs DROP CONSTRAINT odd")
        await world.make_due()
        await world.deliveries().drain(LIMIT_S)
        await world.expect_delivered(users)


async def test_one_side_that_is_down_does_not_hold_up_the_other(world):
    with anyio.fail_after(LIMIT_S):
        world.proxy.to_server = lambda data: None
        users = await world.settled(2)
        await world.deliveries().drain(LIMIT_S)
        assert [world.redis.hash(f"user:{user}")["Quota"] for user in users] == ["1000"] * 2
        assert (await world.outbox.waiting()).depth == 2


async def test_a_balance_whose_claim_ended_without_a_word_is_not_moved_again(world):
    with anyio.fail_after(LIMIT_S):
        (user,) = await world.settled()
        entries = await world.outbox.claim("user_cache", 10, 0.0, None)
        await world.user_courier.deliver(entries)
        # The process ended here.
        await world.make_due()
        await world.deliveries().drain(LIMIT_S)
        await world.expect_delivered([user])
    assert world.metric("custompass_delivery_failures_total", kind="user_cache", reason="unknown") == 1


async def test_a_doubt_does_not_turn_into_a_second_try_while_redis_is_away(world):
    with anyio.fail_after(LIMIT_S):
        (user,) = await world.settled()
        await world.user_courier.deliver(await world.outbox.claim("user_cache", 10, 0.0, None))
        await world.make_due()
        deliverer = Deliverer(
            "user_cache", world.outbox, UserCourier(Cache(Secret("unix:///nowhere"), life_s=60)), world.recorder
        )
        await deliverer.turn()
        assert not await world.outbox.is_due("user_cache")
        await world.make_due()
        await Deliverer("user_cache", world.outbox, world.user_courier, world.recorder).turn()
        assert world.redis.hash(f"user:{user}")["Quota"] == "1000"


async def test_a_log_row_whose_claim_ended_without_a_word_is_there_once(world):
    with anyio.fail_after(LIMIT_S):
        users = await world.settled(3)
        entries = await world.outbox.claim("log", 10, 60.0, await world.log_courier.ready())
        await world.log_courier.deliver(entries[:2])
        # The process ended here.
        await world.make_due()
        await world.deliveries().drain(LIMIT_S)
        await world.expect_delivered(users)


async def test_tokens_are_moved_with_their_owners(world):
    gateway = world.site.gateway
    with anyio.fail_after(LIMIT_S):
        user, channel = await gateway.user(), await gateway.channel()
        token = await gateway.add("tokens", user_id=user, key="secret-key", remain_quota=10, used_quota=450)
        private = await gateway.private(token_id=token, billing_source="wallet")
        for _ in range(2):
            await gateway.task(user, channel, 450, private_data=private)
        first, second = await world.site.tasks(channel)
        await world.site.store.settle([failed(first), succeeded(second, 500)])

        name = f"token:{hmac.new(b's', b'secret-key', hashlib.sha256).hexdigest()}"
        world.redis.cli("HSET", name, "Id", str(token), "RemainQuota", "10", "UsedQuota", "450")
        await world.deliveries().drain(LIMIT_S)
        row = await gateway.row("tokens", token)
        assert (row["remain_quota"], row["used_quota"]) == (410, 50)
        assert world.redis.hash(name) == {"Id": str(token), "RemainQuota": "410", "UsedQuota": "50"}


async def test_entries_delivered_in_any_order_come_to_the_same_balance(world):
    with anyio.fail_after(LIMIT_S):
        users = await world.settled(4)
        ids = [row["id"] for row in await world.site.gateway.rows("SELECT id FROM poller.outbox ORDER BY id DESC")]
        for place, pk in enumerate(ids):
            await world.site.gateway.connection.execute(
                "UPDATE poller.outbox SET due_at = now() + interval '1 hour' * $2 WHERE id = $1", pk, place
            )
        for pk in ids:
            await world.site.gateway.connection.execute("UPDATE poller.outbox SET due_at = now() WHERE id = $1", pk)
            await world.deliveries().drain(LIMIT_S)
        await world.expect_delivered(users)
