"""What a gateway keeps outside of its database: its logs and its Redis, each behind a proxy, and what they testify."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from pathlib import Path

import anyio
import asyncpg

from poller.demo import world
from tests.cache.server import RedisServer
from tests.faults.proxy import Proxy, Target

_CHECKS = Path(__file__).parent / "invariants"
_SECRET = "the gateway's"
_BALANCES = {"user_cache": "Quota", "token_cache": "RemainQuota"}


class Outside:
    """A log database where *circumstances* have ``logs`` or ``away`` (for the first *refusals*
    connections), a Redis where they have ``redis``.
    """

    def __init__(
        self, profile: str, circumstances: frozenset[str], target: Callable[[], Target], *, refusals: int
    ) -> None:
        self._profile = profile
        self._database = ""
        self._names: dict[str, tuple[str, int]] = {}
        self.logs = Proxy(target) if circumstances & {"logs", "away"} else None
        self.redis = RedisServer(keeps=True) if "redis" in circumstances else None
        self.cache = Proxy(lambda: ("127.0.0.1", self.redis.port if self.redis else 0))
        self.turn = anyio.Lock()
        """Held by who breaks Redis as a whole."""
        self.has_redis_broken = False
        """Somebody broke it, or a connection to it: then a balance may have been left as it was."""
        if "away" in circumstances:
            self.be_away(refusals)

    def be_away(self, refusals: int) -> None:
        """The log database does not take the next *refusals* connections."""
        assert self.logs is not None
        self.logs.refuse_next(refusals)

    async def drop(self, connection: asyncpg.Connection) -> None:
        """Drop the log database, by a session on another one."""
        if self._database:
            await connection.execute(f"DROP DATABASE {self._database} WITH (FORCE)")

    async def open(self, connection: asyncpg.Connection, dsn: str) -> None:
        """Make what there is to be, beside the seeded database *dsn*, and fill the cache from it."""
        if self.logs is not None:
            await self.logs.start()
            self._database = f"{await connection.fetchval('SELECT current_database()')}_logs"
            await connection.execute(f"DROP DATABASE IF EXISTS {self._database} WITH (FORCE)")
            await connection.execute(f"CREATE DATABASE {self._database} TEMPLATE template0 STRATEGY file_copy")
            there = await self._connect(dsn)
            await world.make_gateway(there, self._profile)
            await there.close()
        if self.redis is not None:
            await self.cache.start()
            self.redis.start()
            await self._fill(connection)

    def settings(self) -> dict[str, str]:
        """What a daemon must be told of it."""
        told = {}
        if self.logs is not None:
            told["LOG_SQL_DSN"] = f"postgresql://postgres@127.0.0.1:{self.logs.port}/{self._database}?sslmode=disable"
        if self.redis is not None:
            told |= {"REDIS_CONN_STRING": f"redis://127.0.0.1:{self.cache.port}/0", "CRYPTO_SECRET": _SECRET}
        return told

    def heal(self) -> None:
        """Pass everything on again."""
        for proxy in (self.logs, self.cache):
            if proxy is not None:
                proxy.heal()

    async def testify(self, connection: asyncpg.Connection, dsn: str) -> None:
        """Lay before the checker what arrived: into ``inv.elsewhere`` and ``inv.moved`` of the gateway's database."""
        if self.logs is not None:
            there = await self._connect(dsn)
            rows = await there.fetch((_CHECKS / self._profile / "elsewhere.sql").read_text())
            await there.close()
            await connection.execute("TRUNCATE inv.elsewhere")
            await connection.copy_records_to_table("elsewhere", schema_name="inv", records=[tuple(row) for row in rows])
        if self.redis is not None:
            moved = []
            for command, *rest in self.redis.written():
                if command.upper() == "HINCRBY":
                    name, column, delta = rest
                    kind, row_id = self._names[name]
                    if column == _BALANCES[kind]:
                        moved.append((kind, row_id, int(delta)))
            await connection.execute("TRUNCATE inv.moved")
            await connection.copy_records_to_table("moved", schema_name="inv", records=moved)
        if self.has_redis_broken:
            await connection.execute("INSERT INTO inv.rule VALUES ('redis_breaks') ON CONFLICT DO NOTHING")

    async def close(self) -> None:
        """End it; the log database stays."""
        if self.logs is not None and self.logs.port:
            await self.logs.close()
        if self.redis is not None:
            if self.cache.port:
                await self.cache.close()
            self.redis.close()

    async def _connect(self, dsn: str) -> asyncpg.Connection:
        return await asyncpg.connect(dsn, database=self._database, server_settings={"application_name": "rig"})

    async def _fill(self, connection: asyncpg.Connection) -> None:
        """Every balance as the gateway caches it, and no end to its life, so that each move of it is seen."""
        assert self.redis is not None
        for row in await connection.fetch("SELECT id, quota FROM users"):
            name = f"user:{row['id']}"
            self._names[name] = ("user_cache", row["id"])
            self.redis.cli("HSET", name, "Id", str(row["id"]), "Quota", str(row["quota"]))
        if self._profile != "main":
            return
        for row in await connection.fetch("SELECT id, key, remain_quota, used_quota FROM tokens"):
            name = f"token:{hmac.new(_SECRET.encode(), row['key'].strip().encode(), hashlib.sha256).hexdigest()}"
            self._names[name] = ("token_cache", row["id"])
            balance = ("RemainQuota", str(row["remain_quota"]), "UsedQuota", str(row["used_quota"]))
            self.redis.cli("HSET", name, "Id", str(row["id"]), *balance)
