"""Balances in a real Redis: moved at most once, and only where the gateway put them."""

from __future__ import annotations

import hashlib
import hmac
import json

import anyio
import pytest

from poller.cache.redis import Cache, TokenCourier, UserCourier
from poller.core.delivery import Entry, Fate
from poller.core.model import Secret
from poller.errors import CacheAway, Misconfigured
from tests.cache.server import RedisServer
from tests.postgres.proxy import Proxy, swallow

LIMIT_S = 60.0
SECRET = "the gateway's"


def entry(pk: int, age_s: float = 0.1, *, is_in_doubt: bool = False, **payload: object) -> Entry:
    return Entry(pk, pk, json.dumps(payload), age_s, is_in_doubt)


def cached(server: RedisServer, key: str, **fields: object) -> None:
    server.cli("HSET", key, *[str(part) for pair in fields.items() for part in pair])
    server.cli("EXPIRE", key, "60")


def token_name(key: str) -> str:
    return f"token:{hmac.new(SECRET.encode(), key.encode(), hashlib.sha256).hexdigest()}"


async def test_a_cached_balance_moves_by_exactly_what_was_settled_and_nothing_else_does(redis_server):
    cached(redis_server, "user:7", Id=7, Quota=1000, Username="ann", CacheSchema=2)
    with anyio.fail_after(LIMIT_S):
        cache = Cache(Secret(redis_server.url), life_s=60)
        courier = UserCourier(cache)
        await courier.ready()
        receipts = await courier.deliver([entry(1, user_id=7, delta=450), entry(2, user_id=7, delta=-60)])
        await cache.close()
    assert [each.fate for each in receipts] == [Fate.DELIVERED, Fate.DELIVERED]
    assert redis_server.hash("user:7") == {"Id": "7", "Quota": "1390", "Username": "ann", "CacheSchema": "2"}
    assert 0 < int(redis_server.cli("TTL", "user:7")) <= 60


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"Id": 8, "Quota": 1000},
        {"Id": 7},
        {"Quota": 1000},
        {"Id": 7, "Quota": "1e3"},
    ],
    ids=["absent", "somebody else's", "no balance", "no id", "no whole number"],
)
async def test_a_hash_that_is_not_what_the_gateway_writes_is_left_alone_and_none_is_made(redis_server, fields):
    if fields:
        cached(redis_server, "user:7", **fields)
    before = redis_server.hash("user:7")
    with anyio.fail_after(LIMIT_S):
        cache = Cache(Secret(redis_server.url), life_s=60)
        (receipt,) = await UserCourier(cache).deliver([entry(1, user_id=7, delta=450)])
        await cache.close()
    assert receipt.fate is Fate.POINTLESS
    assert redis_server.hash("user:7") == before
    assert redis_server.cli("DBSIZE") == str(int(bool(fields)))


async def test_a_key_of_another_type_is_left_alone(redis_server):
    redis_server.cli("SET", "user:7", "text")
    with anyio.fail_after(LIMIT_S):
        cache = Cache(Secret(redis_server.url), life_s=60)
        (receipt,) = await UserCourier(cache).deliver([entry(1, user_id=7, delta=450)])
        await cache.close()
    assert receipt.fate is Fate.POINTLESS
    assert redis_server.cli("GET", "user:7") == "text"


async def test_a_token_is_found_by_the_digest_of_its_key_without_padding(redis_server):
    cached(redis_server, token_name("k1"), Id=3, RemainQuota=10, UsedQuota=500)
    cached(redis_server, token_name("k2"), Id=4, RemainQuota=20)

    async def keys(ids):
        return {3: Secret("k1" + " " * 46), 4: Secret("k2")}

    with anyio.fail_after(LIMIT_S):
        cache = Cache(Secret(redis_server.url), life_s=60)
        courier = TokenCourier(cache, Secret(SECRET), keys)
        receipts = await courier.deliver([entry(n, token_id=n + 2, delta=450) for n in (1, 2, 3)])
        blind = await TokenCourier(cache, None, keys).deliver([entry(9, token_id=3, delta=450)])
        await cache.close()
    assert [(each.id, each.fate, each.reason) for each in sorted(receipts)] == [
        (1, Fate.DELIVERED, ""),
        (2, Fate.DELIVERED, ""),
        (3, Fate.POINTLESS, "no_token"),
    ]
    assert [(each.fate, each.reason) for each in blind] == [(Fate.POINTLESS, "no_secret")]
    assert redis_server.hash(token_name("k1")) == {"Id": "3", "RemainQuota": "460", "UsedQuota": "50"}
    assert redis_server.hash(token_name("k2")) == {"Id": "4", "RemainQuota": "470"}


async def test_a_lost_answer_is_unknown_and_moves_the_balance_once(redis_server):
    cached(redis_server, "user:7", Id=7, Quota=1000)
    proxy = Proxy(redis_server.socket)
    with anyio.fail_after(LIMIT_S):
        await proxy.start()
        cache = Cache(Secret(f"redis://127.0.0.1:{proxy.port}/0?pool_size=10&dial_timeout=5s"), life_s=60)
        courier = UserCourier(cache)
        await courier.ready()
        proxy.to_client = swallow
        receipts = await courier.deliver([entry(1, user_id=7, delta=450), entry(2, user_id=7, delta=1)])
        await cache.close()
        await proxy.close()
    assert [each.fate for each in receipts] == [Fate.UNKNOWN, Fate.LEFT]
    assert redis_server.hash("user:7")["Quota"] == "1450"


async def test_redis_that_is_away_and_comes_back_is_found_again(redis_server):
    with anyio.fail_after(LIMIT_S):
        cache = Cache(Secret(redis_server.url), life_s=60)
        courier = UserCourier(cache)
        await courier.ready()
        redis_server.stop()
        with pytest.raises(CacheAway):
            await courier.ready()
        redis_server.start()
        cached(redis_server, "user:7", Id=7, Quota=1000)
        await courier.ready()
        (receipt,) = await courier.deliver([entry(1, user_id=7, delta=450)])
        await cache.close()
    assert receipt.fate is Fate.DELIVERED
    assert redis_server.hash("user:7")["Quota"] == "1450"


async def test_a_refusal_of_redis_itself_leaves_the_entry_for_later(redis_server):
    cached(redis_server, "user:7", Id=7, Quota=1000)
    redis_server.cli("REPLICAOF", "127.0.0.1", "1")
    with anyio.fail_after(LIMIT_S):
        cache = Cache(Secret(redis_server.url), life_s=60)
        (receipt,) = await UserCourier(cache).deliver([entry(1, user_id=7, delta=450)])
        await cache.close()
    assert (receipt.fate, receipt.reason) == (Fate.LEFT, "readonly")
    assert redis_server.hash("user:7")["Quota"] == "1000"


async def test_a_change_older_than_any_hash_can_be_is_in_every_hash_already(redis_server):
    cached(redis_server, "user:7", Id=7, Quota=1450)
    with anyio.fail_after(LIMIT_S):
        cache = Cache(Secret(redis_server.url), life_s=1)
        receipts = await UserCourier(cache).deliver([entry(1, 61.0, user_id=7, delta=450)])
        await cache.close()
    assert [(each.fate, each.reason) for each in receipts] == [(Fate.POINTLESS, "too_late")]
    assert redis_server.hash("user:7")["Quota"] == "1450"


async def test_a_change_from_before_the_clock_was_set_back_has_no_age_and_is_not_moved(redis_server):
    cached(redis_server, "user:7", Id=7, Quota=1450)
    with anyio.fail_after(LIMIT_S):
        cache = Cache(Secret(redis_server.url), life_s=60)
        receipts = await UserCourier(cache).deliver([entry(1, -7200.0, user_id=7, delta=450)])
        await cache.close()
    assert [(each.fate, each.reason) for each in receipts] == [(Fate.POINTLESS, "too_late")]


async def test_a_change_that_became_too_old_between_claim_and_delivery_is_not_moved(redis_server):
    cached(redis_server, "user:7", Id=7, Quota=1450)
    with anyio.fail_after(LIMIT_S):
        cache = Cache(Secret(redis_server.url), life_s=60)
        courier = UserCourier(cache)
        await courier.ready()
        claimed = entry(1, 59.9, user_id=7, delta=450)
        # A replica that is frozen here wakes when every hash was read anew.
        await anyio.sleep(0.2)
        receipts = await courier.deliver([claimed])
        await cache.close()
    assert [(each.fate, each.reason) for each in receipts] == [(Fate.POINTLESS, "too_late")]
    assert redis_server.hash("user:7")["Quota"] == "1450"


async def test_amounts_beyond_floats_are_moved_exactly(redis_server):
    cached(redis_server, "user:7", Id=7, Quota=2**62)
    with anyio.fail_after(LIMIT_S):
        cache = Cache(Secret(redis_server.url), life_s=60)
        await UserCourier(cache).deliver([entry(1, user_id=7, delta=2**53 + 1)])
        await cache.close()
    assert redis_server.hash("user:7")["Quota"] == str(2**62 + 2**53 + 1)


def test_an_unreadable_address_is_refused_without_being_repeated():
    with pytest.raises(Misconfigured) as caught:
        Cache(Secret("http://:hunter2canary@h"), life_s=60)
    assert "hunter2canary" not in str(caught.value)
