"""A gateway's side of the database, for tests: seeds users, channels and tasks, and looks at what became of them."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

from poller.core.model import Outcome, Settlement, StatusWords, Task
from poller.postgres.database import Database
from poller.postgres.profile import detect
from poller.postgres.statements import load
from poller.postgres.store import Store

WORDS = StatusWords(frozenset({"completed"}), frozenset({"failed"}), frozenset({"processing"}))
MODEL = "gpt-video/submit"
_STATUS = {
    "documented": {"SUBMITTED": "submitted", "IN_PROGRESS": "processing", "SUCCESS": "completed", "FAILURE": "failed"}
}


class Gateway:
    """One database of a profile, seen from the gateway."""

    def __init__(self, profile: str, dsn: str, connection: asyncpg.Connection) -> None:
        self.profile = profile
        self.dsn = dsn
        self.connection = connection
        self._tasks = 0

    def word(self, state: str) -> str:
        """How this profile spells a canonical *state*."""
        return _STATUS.get(self.profile, {}).get(state, state)

    async def add(self, table: str, **values: object) -> int:
        """Insert a row, leaving out what it does not name; returns its id."""
        names = ", ".join(f'"{name}"' for name in values)
        marks = ", ".join(f"${place}" for place in range(1, len(values) + 1))
        query = f"INSERT INTO {table} ({names}) VALUES ({marks}) RETURNING id"
        return await self.connection.fetchval(query, *values.values())

    async def user(self, quota: int = 1000, used_quota: int = 5000, **more: object) -> int:
        count = await self.connection.fetchval("SELECT count(*) FROM users")
        more = {"username": f"user-{count}"} | more
        if self.profile != "documented":
            more = {"access_token": f"{count:032d}", "aff_code": f"a{count}"} | more
        return await self.add("users", quota=quota, used_quota=used_quota, **more)

    async def channel(self, **more: object) -> int:
        values = {"type": 52, "name": "c", "key": "sk-key", "base_url": "http://upstream.test"}
        if self.profile != "documented":
            values["used_quota"] = 90_000
        return await self.add("channels", **(values | more))

    async def task(
        self, user: int, channel: int, quota: int | None = 450, state: str = "IN_PROGRESS", **more: object
    ) -> int:
        self._tasks += 1
        values: dict[str, object] = {
            "task_id": f"job-{self._tasks}",
            "platform": "custompass",
            "user_id": user,
            "channel_id": channel,
            "quota": quota,
            "action": MODEL,
            "status": self.word(state),
            "progress": "30%",
        }
        if self.profile != "documented":
            values |= {"submit_time": 1_700_000_000, "start_time": 0, "finish_time": 0, "created_at": 1_700_000_000}
        if self.profile == "main":
            values["properties"] = json.dumps({"origin_model_name": more.get("action", MODEL)})
        return await self.add("tasks", **(values | more))

    async def private(self, **fields: object) -> str:
        """``private_data`` of profile main as text."""
        return json.dumps(fields)

    async def row(self, table: str, pk: int) -> asyncpg.Record:
        return await self.connection.fetchrow(f"SELECT * FROM {table} WHERE id = $1", pk)

    async def rows(self, query: str, *args: object) -> list[dict[str, Any]]:
        return [dict(row) for row in await self.connection.fetch(query, *args)]

    async def balance(self, user: int) -> tuple[int, int]:
        """``quota, used_quota`` of a user."""
        row = await self.row("users", user)
        return row["quota"], row["used_quota"]

    async def ledger(self) -> list[dict[str, Any]]:
        return await self.rows("SELECT * FROM poller.ledger ORDER BY task_pk")

    async def set_state(self, pk: int, state: str) -> None:
        await self.connection.execute("UPDATE tasks SET status = $2 WHERE id = $1", pk, self.word(state))


class Site:
    """A gateway and the store under test, on one database."""

    def __init__(self, gateway: Gateway, database: Database, store: Store) -> None:
        self.gateway = gateway
        self.database = database
        self.store = store

    async def tasks(self, channel: int) -> list[Task]:
        """All open tasks of a channel as the store reads them."""
        return (await self.store.page(channel, 0, 10_000)).tasks

    async def expect_money(self, start: dict[int, tuple[int, int]]) -> None:
        """Every user's balance is what it was at the *start*, and what the ledger says was given back."""
        paid = await self.gateway.rows(
            "SELECT user_id, sum(refunded) FILTER (WHERE purse = 'wallet') AS wallet, sum(refunded) AS refunded"
            " FROM poller.ledger GROUP BY user_id"
        )
        moved = {row["user_id"]: (int(row["wallet"] or 0), int(row["refunded"])) for row in paid}
        for user, (quota, used) in start.items():
            wallet, refunded = moved.get(user, (0, 0))
            lowered = 0 if self.gateway.profile == "fork" else refunded
            assert await self.gateway.balance(user) == (quota + wallet, used - lowered)


async def open_store(database: Database, gateway: Gateway, **more: Any) -> Store:
    """A store on *database*, its waits between tries cut to nothing."""
    values: dict[str, Any] = {
        "base_words": WORDS,
        "header_key": "X-Custom-Token",
        "cache_s": 60.0,
        "replica_id": "replica-1",
        "delay_s": lambda tries: 0.0,
    }
    return Store(database, load(gateway.profile), await detect(database), **(values | more))


async def open_site(
    make_database: Callable[[str], Awaitable[str]],
    open_database: Callable[..., Awaitable[Database]],
    profile: str,
    **more: Any,
) -> Site:
    """A fresh database of *profile* with a store on it; *more* goes to the store."""
    dsn = await make_database(profile)
    database = await open_database(dsn)
    gateway = Gateway(profile, dsn, await asyncpg.connect(dsn))
    return Site(gateway, database, await open_store(database, gateway, **more))


def failed(task: Task, reason: str = "upstream broke", **more: Any) -> Settlement:
    """Upstream said that *task* failed: everything goes back."""
    values: dict[str, Any] = {"rule": "failed_word", "fail_reason": reason, "data": '{"status": "failed"}'}
    return Settlement(task, Outcome.FAILURE, 0, **(values | more))


def succeeded(task: Task, charged: int | None, **more: Any) -> Settlement:
    """*task* succeeded and costs *charged*; None: what was reserved."""
    values: dict[str, Any] = {
        "rule": "success_word",
        "price_source": "saved",
        "prompt_tokens": 10,
        "completion_tokens": 35,
        "data": '{"status": "completed"}',
        "evidence": "said completed",
    }
    return Settlement(task, Outcome.SUCCESS, charged, **(values | more))
