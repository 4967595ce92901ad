"""Which tasks are asked about together, and how many: one request holds ids of one channel, model, key and token."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from poller.core.channels import client_header
from poller.core.keys import KeyRing
from poller.core.model import Channel, Route, Secret, Task

_STRIKES: Final = 6
_TRIES_MORE_AFTER: Final = 10
"""Full answers: a size that is too large after all then costs a tenth of the time."""
_NARROWED: Final = 1000
"""Ids that are asked about in smaller batches at a time: beyond that, upstream has another trouble than bad ids."""
_PROBES: Final = 4
"""Probes of one place in a pass: it must come to its end, or what is new on the lane would wait for all that is old."""
_PLACES: Final = 1000
_Place = tuple[Route, int | None]


class Batch(NamedTuple):
    """Ids of one request, each with the rows that wait for it (two rows may share one upstream id)."""

    route: Route
    tasks: dict[str, list[Task]]

    def halves(self) -> tuple[Batch, Batch]:
        """The same tasks in two batches; only for a batch of at least two ids."""
        first, second = self.cut(len(self.tasks) // 2)
        assert second is not None
        return first, second

    def cut(self, size: int) -> tuple[Batch, Batch | None]:
        """The first *size* ids, and the rest where there is one."""
        if len(self.tasks) <= size:
            return self, None
        ids = list(self.tasks)
        first, second = ids[:size], ids[size:]
        return (
            Batch(self.route, {name: self.tasks[name] for name in first}),
            Batch(self.route, {name: self.tasks[name] for name in second}),
        )

    def parted(self, belongs: Callable[[str, Task], bool]) -> tuple[Batch, Batch]:
        """Rows that *belongs* is true of, by upstream id and row, and the others; either may be empty."""
        inside: dict[str, list[Task]] = {}
        outside: dict[str, list[Task]] = {}
        for name, rows in self.tasks.items():
            for task in rows:
                (inside if belongs(name, task) else outside).setdefault(name, []).append(task)
        return Batch(self.route, inside), Batch(self.route, outside)

    def with_key(self, key: Secret) -> Batch:
        """The same tasks, asked about with *key*."""
        return Batch(self.route._replace(key=key), self.tasks)

    def rows(self) -> list[Task]:
        """All tasks of the batch."""
        return [task for rows in self.tasks.values() for task in rows]


class Narrowing:
    """Which ids are asked about among fewer others, by pk: those whose batches brought no answer while others did.

    Over one id upstream may hang, break or drop the connection, just as it does when it is down. So what failed is
    asked about in halves on the next pass: after a few the bad id stands alone, each having freed half of the others.
    Nothing is narrowed while nobody is answered and there are others to answer about, or the first good day after an
    outage would begin with a request for each id.

    >>> narrowing, batch = Narrowing(), Batch(Route("m", None, None, ""), {"a": [], "b": []})
    >>> narrowing.failed(batch, [7, 8]), narrowing.end_pass(), narrowing.most(7), narrowing.most(9)
    (None, None, 1, None)
    """

    def __init__(self) -> None:
        self._most: dict[int, int] = {}
        self._failed: dict[int, int] = {}
        self._failures = self._answers = 0

    def most(self, pk: int) -> int | None:
        """How many ids the batch of this task may hold; None: as many as usual."""
        return self._most.get(pk)

    def answered(self, pks: Iterable[int]) -> None:
        """Upstream answered an ask about these tasks."""
        self._answers += 1
        if self._most:
            for pk in pks:
                self._most.pop(pk, None)

    def failed(self, batch: Batch, pks: Iterable[int]) -> None:
        """An ask about *batch*, whose tasks have these *pks*, failed in a way that one id may be the reason of."""
        self._failures += 1
        if len(self._failed) < _NARROWED:
            self._failed |= dict.fromkeys(pks, max(1, len(batch.tasks) // 2))

    def passed_over(self) -> None:
        """A batch was due in this pass, and nobody asked about it."""
        self._failures += 1

    def end_pass(self) -> None:
        """All tasks had their turn: draw the conclusions."""
        if self._answers or self._failures == 1:
            self._most = self._failed
        else:
            self._most = {pk: self._most[pk] for pk in self._failed if pk in self._most}
        self._failed = {}
        self._failures = self._answers = 0


class Planner:
    """Gathers tasks into batches of at most *size* ids over page borders, so that requests are full.

    *room* bounds how many tasks wait for their batch to fill: beyond it the fullest batches go out as they are, which
    keeps memory flat when every task has a client token of its own. *narrowing* tells whose batches are smaller.
    """

    def __init__(
        self,
        channel: Channel,
        size: int,
        room: int,
        ring: KeyRing | None = None,
        narrowing: Narrowing | None = None,
    ) -> None:
        self._channel = channel
        self._ring = ring or KeyRing(channel.keys)
        self._size = size
        self._room = room
        self._most = (narrowing or Narrowing()).most
        self._waiting = 0
        self._open: dict[tuple[Route, int], dict[str, list[Task]]] = {}

    def add(self, task: Task) -> Iterator[Batch]:
        """Take *task* in; yields the batches that became full by it."""
        most = self._most(task.pk) or self._size
        place = (self._route(task), most)
        tasks = self._open.get(place)
        if tasks is None:
            tasks = self._open[place] = {}
        rows = tasks.get(task.upstream_id)
        if rows is None:
            tasks[task.upstream_id] = [task]
        else:
            rows.append(task)
        self._waiting += 1
        if len(tasks) >= most:
            yield self._take(place)
        elif self._waiting > self._room:
            yield self._take(max(self._open, key=lambda each: len(self._open[each])))

    def rest(self) -> Iterator[Batch]:
        """All batches that are still open, full or not."""
        for place in list(self._open):
            yield self._take(place)

    def _take(self, place: tuple[Route, int]) -> Batch:
        tasks = self._open.pop(place)
        self._waiting -= sum(map(len, tasks.values()))
        return Batch(place[0], tasks)

    def _route(self, task: Task) -> Route:
        header = client_header(task.token_header, self._channel.token_header) if task.client_token else ""
        return Route(task.model, self._ring.first(task), task.client_token if header else None, header)


class Turns:
    """Who is asked about while upstream is in doubt and one probe goes at a time.

    Routes take turns, and within a route its batches, from pass to pass: neither a dead model, nor a client whose token
    is no good, nor one bad id at the front keeps others waiting behind it. Batches whose ids are asked about among
    fewer others (*most*, see ``Narrowing``) are a route of their own here.

    >>> turns, dead, other = Turns(), Route("dead", None, None, ""), Route("other", None, None, "")
    >>> turns.is_up(dead, None, 1), turns.is_up(other, None, 2), turns.failed(dead, None, 50)
    (True, True, None)
    >>> turns.is_up(dead, None, 51), turns.is_up(other, None, 99), turns.has_skipped
    (False, True, True)
    """

    def __init__(self) -> None:
        self.has_skipped = False
        """A batch was passed over in this pass."""
        self._known: set[_Place] = set()
        """Places of the last pass."""
        self._seen: set[_Place] = set()
        self._failures: dict[_Place, int] = {}
        """Probes of this pass that failed."""
        self._probed_to: dict[_Place, int] = {}
        """The last pk of those that were probed in vain since upstream answered last."""
        self._waiting: set[_Place] = set()
        """Places of which some batch behind that had no turn yet."""

    def is_up(self, route: Route, most: int | None, first_pk: int) -> bool:
        """Whether the batch that begins with *first_pk* may be the next probe; otherwise it is passed over now."""
        place = (route, most)
        if len(self._seen) < _PLACES:
            self._seen.add(place)
        if first_pk > self._probed_to.get(place, 0):
            least = min((self._failures.get(each, 0) for each in self._known | self._seen), default=0)
            if self._failures.get(place, 0) <= min(least, _PROBES - 1):
                return True
            self._waiting.add(place)
        self.has_skipped = True
        return False

    def failed(self, route: Route, most: int | None, last_pk: int) -> None:
        """The probe with the batch that ends with *last_pk* brought nothing."""
        if len(self._failures) < _PLACES:
            place = (route, most)
            self._failures[place] = self._failures.get(place, 0) + 1
            self._probed_to[place] = last_pk

    def forget(self) -> None:
        """Everybody begins anew: upstream answers, a person asked for a poll, or a pass was broken off."""
        self._failures.clear()
        self._probed_to.clear()

    def end_pass(self) -> None:
        """All batches were up or passed over: those behind the last that was probed are up in the next pass."""
        self._known, self._seen = self._seen, set()
        self._probed_to = {place: pk for place, pk in self._probed_to.items() if place in self._waiting}
        self._failures.clear()
        self._waiting.clear()
        self.has_skipped = False


class BatchSize:
    """How many ids one request of a lane holds, by what its upstream answers in time; *most* at first, and at most.

    An ask that timed out may have been too large, or upstream may be dead or flapping. So smaller ones are tried; when
    one of them is answered the usual size gets another chance, and only when it failed six times, with smaller ones
    answered in between, was it the size. An outage costs one small request, and an upstream that takes its time for
    each id is answered in the end. A larger size is tried now and then.

    >>> size = BatchSize(50)
    >>> size.timed_out(50), size.now, size.timed_out(25), size.now, size.answered(12), size.now
    (None, 25, None, 12, None, 50)
    """

    def __init__(self, most: int) -> None:
        self.now = most
        """Ids that the next request may hold."""
        self._most = most
        self._usual = most
        self._best = 0
        """Largest size answered since the last time-out."""
        self._failed = 0
        """Size of the last time-out."""
        self._strikes = 0
        self._full_answers = 0

    def answered(self, asked: int) -> None:
        """Upstream answered an ask about *asked* ids."""
        self._best = max(self._best, asked)
        if asked >= self._failed:
            self._strikes = 0
        if asked > self._usual:
            self._usual, self._full_answers = asked, 0
        elif asked == self._usual:
            self._full_answers += 1
        self.now = max(self.now, self._usual)
        if self._full_answers >= _TRIES_MORE_AFTER:
            self._full_answers = 0
            self.now = min(self._most, 2 * self._usual)

    def timed_out(self, asked: int) -> None:
        """No answer about *asked* ids came in time."""
        if asked > self.now or asked == 1:
            return  # asked before the last time-out was known, or the number is not the reason
        best, self._best, self._failed = self._best, 0, asked
        if asked > self._usual:
            self.now = self._usual
        elif 0 < best < asked:
            self.now = best
            self._strikes += 1
            if self._strikes >= _STRIKES:
                self._usual, self._strikes, self._full_answers = best, 0, 0
        else:
            self.now = max(1, asked // 2)
