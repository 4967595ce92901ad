"""Balances in the gateway's Redis, moved by what a settlement moved: at most once an entry.

The gateway reads balances from hashes ``user:<id>`` and ``token:<HMAC of the key>`` that live for SYNC_FREQUENCY. One
script moves such a hash if it is there and is whose we think it is; nothing is ever created, set or kept alive. A
command whose answer did not come is not sent again: a balance that is off for a minute is better than one moved twice.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import urllib.parse
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import anyio
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    RedisError,
    ResponseError,
)

from poller.core.delivery import Entry, Fate, Receipt
from poller.core.model import Secret
from poller.crashpoints import reach
from poller.errors import CacheAway, Misconfigured

_ANSWER_S: Final = 2.0
_TURN_S: Final = 2.0
"""What is not sent by then stays for the next turn: a stop of the daemon waits for this."""
_SHORTEST_LIFE_S: Final = 60.0

_MOVE: Final = """
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' or redis.call('HGET', KEYS[1], 'Id') ~= ARGV[1] then return 0 end
local balance = redis.call('HGET', KEYS[1], ARGV[2])
if not balance or not string.match(balance, '^-?%d+$') then return 0 end
redis.call('HINCRBY', KEYS[1], ARGV[2], ARGV[3])
local used = redis.call('HGET', KEYS[1], ARGV[4])
if used and string.match(used, '^-?%d+$') then redis.pcall('HINCRBY', KEYS[1], ARGV[4], ARGV[5]) end
return 1
"""
"""KEYS: the hash. ARGV: the id it must have, the field of the balance, the change; the field of what was used and its
change, moved only where that field is there. Returns 1 when it moved something; an error means that nothing moved."""

_REFUSALS: Final = (ResponseError, BusyLoadingError, AuthenticationError, AuthorizationError)

TokenKeys = Callable[[Sequence[int]], Awaitable[dict[int, Secret]]]


class Cache:
    """A single connection to Redis, made when it is needed. *life_s*: how long the gateway lets a balance live."""

    def __init__(self, url: Secret, *, life_s: float) -> None:
        self.life_s = max(_SHORTEST_LIFE_S, life_s)
        self._pool = _pool(url)
        self._connection: Any = None
        self._turn = anyio.Lock()

    async def ping(self) -> None:
        """See that it answers. Raises CacheAway."""
        async with self._turn:
            await self._ping()

    async def move(self, moves: Sequence[tuple[int, list[str]]]) -> list[Receipt]:
        """Run the script for each of *moves*, an entry's id with the script's key and arguments.

        What is not sent is LEFT, what was sent without an answer UNKNOWN. Raises CacheAway when nothing was sent.
        """
        receipts: list[Receipt] = []
        # A stop of the daemon waits for the answers that are on their way.
        with anyio.CancelScope(shield=True):
            async with self._turn:
                if self._connection is None:
                    await self._ping()
                until_s = anyio.current_time() + _TURN_S
                for entry_id, arguments in moves:
                    if self._connection is None or anyio.current_time() > until_s:
                        receipts.append(Receipt(entry_id, Fate.LEFT, "slow" if self._connection else "lost"))
                    else:
                        receipts.append(await self._move(entry_id, arguments))
        return receipts

    async def close(self) -> None:
        """Close the connection, if there is one."""
        with anyio.CancelScope(shield=True):
            await self._drop()

    async def _move(self, entry_id: int, arguments: list[str]) -> Receipt:
        try:
            with anyio.fail_after(_ANSWER_S):
                await self._connection.send_command("EVAL", _MOVE, "1", *arguments)
                reach("cache.sent")
                moved = await self._connection.read_response()
            reach("cache.moved")
        except _REFUSALS as refusal:
            # Redis said no instead of running it: loading, read-only, out of memory.
            return Receipt(entry_id, Fate.LEFT, _word(refusal))
        except (RedisError, OSError):
            await self._drop()
            return Receipt(entry_id, Fate.UNKNOWN)
        return Receipt(entry_id, Fate.DELIVERED if moved else Fate.POINTLESS)

    async def _ping(self) -> None:
        if self._connection is not None:
            try:
                await self._call("PING")
            except (RedisError, OSError):
                # Closed while nobody used it, perhaps.
                await self._drop()
            else:
                return
        try:
            self._connection = self._pool.make_connection()
            with anyio.fail_after(_ANSWER_S):
                await self._connection.connect()
            await self._call("PING")
        except (RedisError, OSError) as error:
            await self._drop()
            raise CacheAway(_word(error)) from error

    async def _call(self, *command: str) -> Any:
        with anyio.fail_after(_ANSWER_S):
            await self._connection.send_command(*command)
            return await self._connection.read_response()

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with anyio.move_on_after(_ANSWER_S):
                await connection.disconnect(nowait=True)


class _Courier:
    may_repeat = False

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._ready_at = math.inf

    async def ready(self) -> None:
        """See that Redis answers. Raises CacheAway."""
        await self._cache.ping()
        self._ready_at = anyio.current_time()

    def _is_over(self, entry: Entry) -> bool:
        """Whether every hash was read from the database after the settlement: its balance knows of it."""
        # Its age is that of the claim, which came after ready; a process may have been frozen since.
        since_s = max(0.0, anyio.current_time() - self._ready_at)
        # Below 0 it is from before the clock was set back: nobody knows how old it is.
        return not 0 <= entry.age_s + since_s <= self._cache.life_s

    async def _send(self, entries: Sequence[Entry], moves: dict[int, list[str]], why_not: str) -> list[Receipt]:
        over = [Receipt(each.id, Fate.POINTLESS, "too_late") for each in entries if self._is_over(each)]
        fresh = [each for each in entries if not self._is_over(each)]
        unnamed = [Receipt(each.id, Fate.POINTLESS, why_not) for each in fresh if each.id not in moves]
        sent = [(each.id, moves[each.id]) for each in fresh if each.id in moves]
        return over + unnamed + (await self._cache.move(sent) if sent else [])


class UserCourier(_Courier):
    """Moves the cached balance of users."""

    async def deliver(self, entries: Sequence[Entry]) -> list[Receipt]:
        """One receipt an entry. Raises CacheAway when nothing was sent."""
        moves = {}
        for each in entries:
            payload = json.loads(each.payload)
            user = str(payload["user_id"])
            moves[each.id] = [f"user:{user}", user, "Quota", str(payload["delta"]), "", "0"]
        return await self._send(entries, moves, "")


class TokenCourier(_Courier):
    """Moves the cached balance of tokens, which are named by a digest of their key under the gateway's *secret*."""

    def __init__(self, cache: Cache, secret: Secret | None, token_keys: TokenKeys) -> None:
        super().__init__(cache)
        self._secret = secret
        self._token_keys = token_keys

    async def deliver(self, entries: Sequence[Entry]) -> list[Receipt]:
        """One receipt an entry. Raises CacheAway when nothing was sent, Defer when the keys cannot be read."""
        if self._secret is None:
            return [Receipt(each.id, Fate.POINTLESS, "no_secret") for each in entries]
        payloads = {each.id: json.loads(each.payload) for each in entries}
        keys = await self._token_keys(sorted({payload["token_id"] for payload in payloads.values()}))
        moves = {}
        for entry_id, payload in payloads.items():
            key = keys.get(payload["token_id"], Secret("")).reveal().strip()
            if key:
                digest = hmac.new(self._secret.reveal().encode(), key.encode(), hashlib.sha256).hexdigest()
                token, delta = str(payload["token_id"]), int(payload["delta"])
                moves[entry_id] = [f"token:{digest}", token, "RemainQuota", str(delta), "UsedQuota", str(-delta)]
        return await self._send(entries, moves, "no_token")


def _pool(url: Secret) -> Any:
    """Connections as *url* says, without the options of other clients. Raises Misconfigured."""
    wanted = "REDIS_CONN_STRING: expected redis://USER:PASSWORD@HOST:6379/0, rediss://… or unix://…"
    try:
        parts = urllib.parse.urlsplit(url.reveal())
        known = [pair for pair in urllib.parse.parse_qsl(parts.query) if pair[0] in ("db", "password", "username")]
        return ConnectionPool.from_url(
            urllib.parse.urlunsplit(parts._replace(query=urllib.parse.urlencode(known), fragment="")),
            # No retries of the client's own: it cannot know what may be sent twice.
            retry=Retry(NoBackoff(), 0),
            # Nor its time limits, which swallow cancellations: every use has one of ours.
            socket_timeout=None,
            socket_connect_timeout=None,
            protocol=2,
            decode_responses=True,
        )
    except ValueError as error:
        raise Misconfigured(wanted) from error


def _word(error: Exception) -> str:
    """What sort of error it is, in one word; what a server says may hold anything."""
    return type(error).__name__.removesuffix("Error").lower()
