"""What the side port and the signals may see and do: the running daemon from outside."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from typing import Any, Protocol

import anyio

from poller.errors import Defer, NoSuchChannel
from poller.fleet import Fleet

_LIVE_S = 30.0
"""How late the renewal loop may be: longer than it waits for anything, and what deploy/systemd gives the watchdog."""


class Leases(Protocol):
    """The rows that make pause, resume and trigger fleet-wide."""

    async def trigger(self) -> object: ...

    async def pause(self, channel_id: int | None, reason: str) -> object: ...

    async def resume(self, channel_id: int | None) -> object: ...

    async def has_channel(self, channel_id: int) -> bool: ...

    async def lanes_overview(self) -> Sequence[dict[str, Any]]: ...


class Watchman(Protocol):
    """The read that shows whether the database answers."""

    async def db_now(self) -> float: ...

    async def usable_channels(self, types: Sequence[int]) -> int: ...


class Recorder(Protocol):
    """Who counts and logs what was asked of the daemon."""

    def triggered(self, source: str) -> None: ...

    def event(self, level: str, name: str, **facts: object) -> None: ...


class Console:
    """The daemon as its operators meet it. Until the database was opened there is a console, but no fleet."""

    def __init__(self, replica: str, recorder: Recorder, channel_types: Sequence[int]) -> None:
        self.fleet: Fleet | None = None
        self.trouble = "waiting for the database"
        """Why the daemon is not ready yet, while it is not."""
        self._replica = replica
        self._recorder = recorder
        self._channel_types = channel_types
        self._leases: Leases | None = None
        self._watchman: Watchman | None = None

    def attach(self, fleet: Fleet, leases: Leases, watchman: Watchman) -> None:
        """The database is open: there is something to show and to command."""
        self.fleet, self._leases, self._watchman = fleet, leases, watchman

    def is_live(self) -> bool:
        """Whether the loops turn; an outage of the database or of an upstream is no reason to restart."""
        return self.fleet is None or anyio.current_time() - self.fleet.due_at < _LIVE_S

    def is_started(self) -> bool:
        """Whether the first leases were had."""
        return self.fleet is not None and self.fleet.has_beaten

    async def checks(self) -> dict[str, str]:
        """What readiness rests on: name → ``ok`` or what is wrong."""
        if self.fleet is None or self._watchman is None:
            return {"database": self.trouble}
        try:
            await self._watchman.db_now()
        except Defer as away:
            return {"database": str(away)}
        return {"database": "ok", "leases": "ok" if self.fleet.has_beaten else "no lease renewed yet"}

    async def health(self) -> dict[str, Any]:
        """Counts for ``/healthz``; ``usable_channels`` 0 means that nobody can be asked."""
        checks = await self.checks()
        is_ok = all(said == "ok" for said in checks.values())
        health = {
            "status": "ok" if is_ok else "unavailable",
            "checks": checks,
            "lanes": len(self.fleet.lanes) if self.fleet else 0,
        }
        if is_ok and self._watchman is not None:
            health["usable_channels"] = await self._watchman.usable_channels(self._channel_types)
        return health

    async def status(self) -> dict[str, Any]:
        """Everything that ``/status`` shows: this replica, and all lanes as the database has them.

        While that does not answer, ``fleet`` is empty and the checks say why.
        """
        checks = await self.checks()
        overview: Sequence[dict[str, Any]] = []
        if self._leases is not None and checks.get("database") == "ok":
            overview = await self._leases.lanes_overview()
        return {**self.state(), "checks": checks, "fleet": overview}

    def state(self) -> dict[str, Any]:
        """This replica's own view: lanes, breakers, memory; no database needed."""
        lanes = self.fleet.lanes if self.fleet else {}
        return {
            "replica": self._replica,
            "tasks": len(anyio.get_running_tasks()),
            "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "lanes": [
                {
                    "channel_id": channel_id,
                    "is_paused": lane.is_paused,
                    "breaker": lane.asker.breaker.state,
                    "concurrency": lane.asker.limit,
                    "last_pass": {"asked": lane.last_counts.asked, "settled": lane.last_counts.settled},
                }
                for channel_id, lane in sorted(lanes.items())
            ],
        }

    async def trigger(self, source: str = "http") -> None:
        """Poll everything active now, on all replicas. Raises Defer when the database is away."""
        if self._leases is None or self.fleet is None:
            raise Defer(f"not ready: {self.trouble}")
        self._recorder.triggered(source)
        await self._leases.trigger()
        self.fleet.wake()

    async def trigger_quietly(self, source: str) -> None:
        """``trigger`` for a signal, which has nobody to answer to but the log."""
        try:
            await self.trigger(source)
        except Defer as away:
            self._recorder.event("warning", "trigger_deferred", source=source, reason=str(away))

    async def pause(self, channel_id: int | None) -> None:
        """Ask nothing new of one channel, or of all, on all replicas. Raises NoSuchChannel, and Defer like trigger."""
        await self._flag("pause", channel_id)

    async def resume(self, channel_id: int | None) -> None:
        """Lift a pause."""
        await self._flag("resume", channel_id)

    async def _flag(self, verb: str, channel_id: int | None) -> None:
        if self._leases is None or self.fleet is None:
            raise Defer(f"not ready: {self.trouble}")
        if channel_id is not None and not await self._leases.has_channel(channel_id):
            raise NoSuchChannel(channel_id)
        if verb == "pause":
            await self._leases.pause(channel_id, "operator")
        else:
            await self._leases.resume(channel_id)
        self._recorder.event("info", f"lane_{verb}d", channel_id=channel_id or "all")
        self.fleet.wake()
