"""A gateway with a past, for tests of what is found in it: tasks that others finished, log rows that others wrote."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from poller.core.reconcile import Class, Finding
from poller.postgres.reconcile import Reconciler
from poller.postgres.statements import load
from tests.postgres.gateway import MODEL, Site

START = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Books:
    """A gateway with history: tasks that others finished, and log rows that others wrote."""

    def __init__(self, site: Site, dsn: str) -> None:
        self.site = site
        self.gateway = site.gateway
        self.profile = site.gateway.profile
        self.dsn = dsn
        self.logs = site.gateway.connection

    async def finished(
        self, user: int, channel: int, quota: int = 450, used: int = 0, minute: int = 0, **more: Any
    ) -> int:
        """A failed task of *minute* that nobody refunded (documented: one that cost *used*)."""
        at = START + timedelta(minutes=minute)
        if self.profile == "documented":
            state = "SUCCESS" if used else "FAILURE"
            values: dict[str, Any] = {"used_quota": used, "created_at": at, "updated_at": at}
        else:
            state = "FAILURE"
            values = {"submit_time": int(at.timestamp()), "finish_time": int(at.timestamp()) + 60}
        return await self.gateway.task(user, channel, quota, state, progress="100%", **(values | more))

    async def refunded(self, user: int, pk: int, minute: int, quota: int = 450) -> None:
        """The log row that a gateway writes when it refunds a task."""
        at = START + timedelta(minutes=minute)
        task_id = (await self.gateway.row("tasks", pk))["task_id"]
        if self.profile == "documented":
            columns = "user_id, type, quota, model_name, content, created_at"
            row = (user, "refund", quota, MODEL, "refund", at)
        elif self.profile == "fork":
            columns = "user_id, type, content, created_at"
            named = f"模型: {MODEL}, 任务ID: {task_id}, 补偿 ＄0.000900 额度, 原因: 任务ID: x, 补偿 y"
            row = (user, 4, f"CustomPass任务失败退费 - {named}", int(at.timestamp()))
        else:
            columns = "user_id, type, content, quota, other, created_at"
            other = f'{{"is_task":true,"task_id":{go_json(task_id)},"reason":"a \\"task_id\\":\\"b\\" c"}}'
            row = (user, 6, "", quota, other, int(at.timestamp()))
        marks = ", ".join(f"${place}" for place in range(1, len(row) + 1))
        query = f"INSERT INTO logs ({columns}) VALUES ({marks})"
        await self.logs.execute(query, *row)

    async def odd_line(self, text: str) -> None:
        """A log row of a refund that says *text* wherever it could say anything."""
        if self.profile == "documented":
            columns, row = "user_id, type, quota, content, created_at", (0, "refund", 9, text, START)
        else:
            kind = 4 if self.profile == "fork" else 6
            columns, row = "user_id, type, content, other, created_at", (0, kind, text, text, int(START.timestamp()))
        await self.logs.execute(f"INSERT INTO logs ({columns}) VALUES ($1, $2, $3, $4, $5)", *row)

    async def vouched(self, since: timedelta = timedelta(days=-1), until: timedelta | None = None) -> None:
        """Log rows of nobody's, without which the logs would tell of no time: a refund, and another one at the end."""
        ends = (("refund", 6, START + since), ("consume", 2, datetime.now(UTC) if until is None else START + until))
        for word, number, at in ends:
            if self.profile == "documented":
                row: tuple[object, ...] = (0, word, 0, "any", at)
            else:
                kind = 4 if number == 6 and self.profile == "fork" else number
                row = (0, kind, 0, "any", int(at.timestamp()))
            query = "INSERT INTO logs (user_id, type, quota, content, created_at) VALUES ($1, $2, $3, $4, $5)"
            await self.logs.execute(query, *row)

    def reconciler(self, **more: Any) -> Reconciler:
        return Reconciler(self.site.database, load(self.profile), replica_id="test", **more)

    async def owed(
        self, reconciler: Reconciler | None = None, since_s: float = 0.0, *, is_sure: bool = False
    ) -> dict[int, Finding]:
        reconciler = reconciler or self.reconciler()
        span = await reconciler.span(since_s)
        pages = reconciler.owed(since_s, span, is_sure=is_sure)
        return {each.pk: each async for page in pages for each in page.findings}

    async def contradicted(self, since_s: float = 0.0) -> dict[int, Class]:
        reconciler = self.reconciler()
        span = await reconciler.span(since_s)
        return {each.pk: each.kind async for page in reconciler.ledger(since_s, span) for each in page.findings}


def kinds(found: dict[int, Finding]) -> dict[int, Class]:
    return {pk: each.kind for pk, each in found.items()}


def go_json(text: str) -> str:
    """*text* as Go writes it: plain, but for what could end a script in a page."""
    written = json.dumps(text, ensure_ascii=False)
    for mark in "<>&\u2028\u2029":
        written = written.replace(mark, f"\\u{ord(mark):04x}")
    return written
