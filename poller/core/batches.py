"""Which tasks are asked about together: one request holds ids of one channel, model, key and client token."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from poller.core.model import Channel, Route, Task


class Batch(NamedTuple):
    """Ids of one request, each with the rows that wait for it (two rows may share one upstream id)."""

    route: Route
    tasks: dict[str, list[Task]]

    def halves(self) -> tuple[Batch, Batch]:
        """The same tasks in two batches; only for a batch of at least two ids."""
        ids = list(self.tasks)
        middle = len(ids) // 2
        first, second = ids[:middle], ids[middle:]
        return (
            Batch(self.route, {name: self.tasks[name] for name in first}),
            Batch(self.route, {name: self.tasks[name] for name in second}),
        )

    def rows(self) -> list[Task]:
        """All tasks of the batch."""
        return [task for rows in self.tasks.values() for task in rows]


class Planner:
    """Gathers tasks into batches of at most *size* ids over page borders, so that requests are full.

    *room* bounds how many tasks wait for their batch to fill: beyond it the fullest batches go out as they are, which
    keeps memory flat when every task has a client token of its own.
    """

    def __init__(self, channel: Channel, size: int, room: int) -> None:
        self._channel = channel
        self._size = size
        self._room = room
        self._waiting = 0
        self._open: dict[Route, dict[str, list[Task]]] = {}

    def add(self, task: Task) -> Iterator[Batch]:
        """Take *task* in; yields the batches that became full by it."""
        route = self._route(task)
        tasks = self._open.get(route)
        if tasks is None:
            tasks = self._open[route] = {}
        rows = tasks.get(task.upstream_id)
        if rows is None:
            tasks[task.upstream_id] = [task]
        else:
            rows.append(task)
        self._waiting += 1
        if len(tasks) >= self._size:
            yield self._take(route)
        elif self._waiting > self._room:
            yield self._take(max(self._open, key=lambda each: len(self._open[each])))

    def rest(self) -> Iterator[Batch]:
        """All batches that are still open, full or not."""
        for route in list(self._open):
            yield self._take(route)

    def _take(self, route: Route) -> Batch:
        tasks = self._open.pop(route)
        self._waiting -= sum(map(len, tasks.values()))
        return Batch(route, tasks)

    def _route(self, task: Task) -> Route:
        token = task.client_token
        header = (task.token_header or self._channel.token_header) if token else ""
        return Route(task.model, task.key or self._channel.keys[0], token, header)
