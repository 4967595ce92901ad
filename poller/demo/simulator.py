"""A simulated upstream over real HTTP: tasks that live and end, and the troubles that upstreams have.

What becomes of a task follows from the seed and its id (`fates.py`), so the truth can be told without asking, and any
number of tasks costs no memory. A channel is the first segment of the path, such as ``/ch3``; each may have its own key
and its own troubles.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import anyio
import uvicorn
from anyio.abc import TaskStatus
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from poller.demo.fates import End, Fate, Lives, name
from poller.demo.troubles import CHAOS, Item, Trouble, babble, broken_status, spoil

_NO_TROUBLE = Trouble()
_DRIP_EVERY_S = 0.2


class Simulator:
    """One upstream for any number of channels. Counters are for tests to read."""

    def __init__(
        self,
        *,
        seed: int = 0,
        is_chaotic: bool = False,
        speed: float = 1.0,
        lives: Lives | None = None,
        keys: Mapping[str, str] | None = None,
        troubles: Mapping[str, Trouble] | None = None,
    ) -> None:
        """*keys* and *troubles* are by channel (``/ch3``). No key takes any; *is_chaotic* troubles all others."""
        self.lives = lives or Lives(seed)
        self.keys = dict(keys or {})
        self.troubles = dict(troubles or {})
        self.started_s = time.time()
        self.requests = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self.asked: Counter[tuple[str, str]] = Counter()
        """Ids asked about, by request path and Authorization header."""
        self.submitted: list[str] = []
        self._speed = speed
        self._common = CHAOS if is_chaotic else _NO_TROUBLE
        self._chance = random.Random(seed)
        self._closing = anyio.Event()
        self.app = Starlette(
            routes=[
                Route("/{path:path}/task/list-by-condition", self._list, methods=["POST"]),
                Route("/{path:path}/submit", self._submit, methods=["POST"]),
            ]
        )

    def plan(self, task_id: str) -> Fate:
        """What becomes of *task_id*, in seconds of :meth:`now_s`."""
        return self.lives.plan(task_id, self.started_s)

    def now_s(self) -> float:
        """Simulated epoch seconds: they pass *speed* times as fast as real ones since the start."""
        return self.started_s + (time.time() - self.started_s) * self._speed

    async def run(
        self, host: str = "127.0.0.1", port: int = 0, *, task_status: TaskStatus[str] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until cancelled; tells *task_status* the base URL. Port 0 takes a free one; a taken one: OSError."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, port), family=family, backlog=1024) as listener:
            config = uvicorn.Config(
                self.app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1
            )
            server = _Server(config)
            serving = asyncio.create_task(server.serve([listener]))
            shown = f"[{host}]" if ":" in host else host
            task_status.started(f"http://{shown}:{listener.getsockname()[1]}")
            try:
                await asyncio.shield(serving)
            finally:
                self._closing.set()
                server.should_exit = True
                with anyio.CancelScope(shield=True):
                    await serving

    async def _submit(self, request: Request) -> Response:
        path = f"/{request.path_params['path']}"
        if not self._may(path, request):
            return JSONResponse({"code": 401, "message": "invalid key"}, 401)
        task_id = name(self.now_s(), len(self.submitted))
        self.submitted.append(task_id)
        return _answer({"task_id": task_id, "status": "submitted", "progress": "0%"})

    async def _list(self, request: Request) -> Response:
        self.requests += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self._listed(request)
        finally:
            self.in_flight -= 1

    async def _listed(self, request: Request) -> Response:
        path = f"/{request.path_params['path']}"
        try:
            ids = (await request.json())["task_ids"]
        except (ValueError, KeyError, TypeError):
            return JSONResponse({"code": 400, "message": "bad request"}, 400)
        self.asked[request.url.path, request.headers.get("authorization", "")] += len(ids)
        if not self._may(path, request):
            return JSONResponse({"code": 401, "message": "invalid key"}, 401)
        chance, trouble = self._chance, self._trouble_of(path)
        if chance.random() < trouble.hanging:
            await self._wait(request, float("inf"))
        if trouble.slow_s:
            await self._wait(request, chance.random() * trouble.slow_s)
        if chance.random() < trouble.failing:
            return Response(status_code=broken_status(chance), headers={"Retry-After": "1"})
        if chance.random() < trouble.babbling:
            return Response(babble(chance), media_type="application/json")
        now_s = self.now_s()
        items = [item for task_id in ids if (item := self._item(task_id, now_s)) is not None]
        answer = _answer(spoil(items, trouble, chance))
        if chance.random() < trouble.dripping:
            return StreamingResponse(self._dripped(bytes(answer.body)), media_type="application/json")
        return answer

    def _item(self, task_id: str, now_s: float) -> Item | None:
        """What upstream says of a task, or None when it knows nothing of it."""
        fate = self.plan(task_id)
        if fate.end is End.LOST and (now_s >= fate.finishes_s or task_id.startswith("lost-")):
            return None
        if now_s < fate.begins_s:
            return {"task_id": task_id, "status": "submitted", "progress": "0%"}
        if now_s < fate.finishes_s:
            return {"task_id": task_id, "status": "processing", "progress": f"{fate.progress(now_s)}%"}
        item: Item = {"task_id": task_id, "status": fate.end.value, "progress": "100%"}
        item["finished_at"] = self._real_s(fate.finishes_s)
        if fate.error:
            item["error"] = fate.error
        if fate.is_success:
            item["result"] = {"url": f"https://upstream.example/{task_id}.png"}
        if fate.usage:
            prompt, completion = fate.usage
            item["usage"] = {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
            }
        return item

    def _real_s(self, simulated_s: float) -> float:
        return round(self.started_s + (simulated_s - self.started_s) / self._speed, 3)

    def _may(self, path: str, request: Request) -> bool:
        key = self.keys.get(_channel_of(path))
        return key is None or request.headers.get("authorization") == f"Bearer {key}"

    def _trouble_of(self, path: str) -> Trouble:
        trouble = self.troubles.get(_channel_of(path), self._common)
        return trouble if time.time() - self.started_s < trouble.heals_after_s else _NO_TROUBLE

    async def _wait(self, request: Request, seconds: float) -> None:
        """Wait, but no longer than the client stays and the simulator runs."""

        async def until_gone() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            group.cancel_scope.cancel()

        with anyio.move_on_after(seconds):
            async with anyio.create_task_group() as group:
                group.start_soon(until_gone)
                await self._closing.wait()
                group.cancel_scope.cancel()

    async def _dripped(self, body: bytes) -> AsyncIterator[bytes]:
        for start in range(len(body)):
            yield body[start : start + 1]
            with anyio.move_on_after(_DRIP_EVERY_S):
                await self._closing.wait()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to the process that the simulator is a guest of."""
        yield


def _answer(data: Any) -> Response:
    body = json.dumps({"code": 0, "message": "success", "data": data}, separators=(",", ":"))
    return Response(body, media_type="application/json")


def _channel_of(path: str) -> str:
    return "/" + path.split("/", 2)[1]
