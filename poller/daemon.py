"""The composition root: opens what the settings name, wires it, supervises it, drains it, aborts it."""

from __future__ import annotations

import contextlib
import signal
from dataclasses import replace

import anyio
from anyio.abc import TaskGroup, TaskStatus

from poller.console import Console
from poller.core.schedule import backoff_s, is_said
from poller.errors import DatabaseAway, Unavailable
from poller.fleet import Fleet
from poller.lane import Lane
from poller.oneshot import NoLeases, Rehearsal, once, rehearse
from poller.ops import server
from poller.ops.notify import Notifier
from poller.ops.recorder import Recorder
from poller.settings import Settings, environment
from poller.supervise import beat, supervised, unfolded
from poller.vigil import Vigil
from poller.wiring import Parts, make_auditor, open_parts, replica_id, rules, tools

_ONE_SHOT_PATIENCE_S = 10.0
_LAST_DELIVERY_S = 10.0
_BACKOFF_FIRST_S, _BACKOFF_LAST_S = 0.5, 15.0


class Daemon:
    """The running daemon: side port, signals and heart at once, the database and the lanes when it can be had."""

    def __init__(self, settings: Settings, recorder: Recorder, notifier: Notifier) -> None:
        self._settings = settings
        self._recorder = recorder
        self._notifier = notifier
        self._replica = replica_id()
        self._console = Console(self._replica, recorder, settings.channel_types)
        self._stopping = anyio.Event()
        self._abort_signal = 0

    async def serve(self) -> int:
        """Run until told to stop; the exit code. Raises Misconfigured, NotPermitted, Unavailable (port taken)."""
        settings, recorder = self._settings, self._recorder
        async with anyio.create_task_group() as group:
            await group.start(self._signals, group)
            recorder.event("info", "daemon_started", replica=self._replica, interval=settings.poll_interval_s)
            if settings.metrics_enabled:
                await group.start(server.serve, settings, self._console, recorder)
            watchdog_s = self._notifier.watchdog_s()
            group.start_soon(beat, recorder, self._console.is_live, self._notifier.watchdog, watchdog_s)
            self._notifier.ready("waiting for the database")
            async with anyio.create_task_group() as work:
                work.start_soon(self._work)
                await self._stopping.wait()
                self._notifier.stopping(settings.drain_timeout_s)
                if self._console.fleet is not None:
                    is_clean = await self._console.fleet.drain(settings.drain_timeout_s)
                    recorder.event("info", "daemon_drained", is_clean=is_clean)
                work.cancel_scope.cancel()
            group.cancel_scope.cancel()
        if self._abort_signal:
            return 128 + self._abort_signal
        recorder.event("info", "daemon_stopped", replica=self._replica)
        return 0

    async def _work(self) -> None:
        failures = 0
        while True:
            try:
                async with open_parts(self._settings, self._replica, self._recorder, is_dry=False) as parts:
                    await self._run(parts)
            except DatabaseAway as away:
                failures += 1
                wait_s = backoff_s(failures, _BACKOFF_FIRST_S, _BACKOFF_LAST_S)
                self._console.trouble = str(away)
                if is_said(failures):
                    facts = {"reason": str(away), "failures": failures, "retry_in": wait_s}
                    self._recorder.event("warning", "database_away", **facts)
                await anyio.sleep(wait_s)

    async def _run(self, parts: Parts) -> None:
        settings, recorder = self._settings, self._recorder
        fitted = tools(settings, parts, recorder)
        ruled = rules(settings)
        fleet = Fleet(
            parts.leases,
            lambda channel_id: Lane(channel_id, ruled, fitted),
            recorder,
            interval_s=settings.poll_interval_s,
            renewal_s=settings.lease_ttl_s / 3,
            start_delay_s=settings.poll_start_delay_s,
        )
        vigil = Vigil(
            parts.watchman,
            parts.store,
            parts.leases,
            make_auditor(settings, parts, self._replica),
            parts.ledger,
            recorder,
            parts.database.sizes,
            pace_s=min(15.0, settings.poll_interval_s),
            stops_channels=parts.profile.name == "fork",
        )
        self._console.attach(fleet, parts.leases, parts.watchman)
        self._notifier.status(f"profile {parts.profile.name}")
        async with anyio.create_task_group() as group:
            group.start_soon(supervised, "queue", vigil.look, recorder)
            group.start_soon(supervised, "second_writer", vigil.guard, recorder)
            group.start_soon(supervised, "outbox", parts.deliveries.look, recorder)
            for loop in parts.deliveries.loops:
                group.start_soon(supervised, f"deliver_{loop.kind}", loop.turn, recorder)
            group.start_soon(supervised, "audit", vigil.audit, recorder)
            group.start_soon(supervised, "notes", vigil.tidy, recorder)
            await fleet.run()

    async def _signals(self, group: TaskGroup, *, task_status: TaskStatus[None]) -> None:
        wanted = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
        with anyio.open_signal_receiver(*wanted) as signals:
            task_status.started()
            async for number in signals:
                name = signal.Signals(number).name
                if number in (signal.SIGTERM, signal.SIGINT):
                    if self._stopping.is_set():
                        self._recorder.event("warning", "daemon_aborted", signal=name)
                        self._abort_signal = number
                        group.cancel_scope.cancel()
                        return
                    self._recorder.event("info", "daemon_draining", signal=name, limit=self._settings.drain_timeout_s)
                    self._stopping.set()
                elif number == signal.SIGUSR1:
                    group.start_soon(self._console.trigger_quietly, name)
                elif number == signal.SIGUSR2:
                    self._recorder.event("info", "state_dumped", **self._console.state())
                else:
                    self._recorder.event(
                        "warning", "reload_unsupported", signal=name, advice="restart to read changed settings"
                    )


async def run(settings: Settings, recorder: Recorder, *, is_once: bool = False, is_dry: bool = False) -> int:
    """What ``poller run`` does; the exit code. Raises Stop and its children."""
    with unfolded():
        if is_once or is_dry:
            return await _one_shot(settings, recorder, is_dry=is_dry)
        return await Daemon(settings, recorder, Notifier(environment())).serve()


async def _one_shot(settings: Settings, recorder: Recorder, *, is_dry: bool) -> int:
    ruled = rules(settings, is_patient=False)
    async with contextlib.AsyncExitStack() as stack:
        parts = await _open_for_once(stack, settings, recorder, is_dry=is_dry)
        fitted = tools(settings, parts, recorder)
        if not is_dry:
            await parts.ledger.note()
        if is_dry:
            rehearsal = Rehearsal(parts.store)
            fitted = replace(fitted, source=rehearsal, leases=NoLeases())
            await rehearse(
                await parts.watchman.channels_with_work(), lambda channel_id: Lane(channel_id, ruled, fitted)
            )
            recorder.event("info", "rehearsal_ended", would_settle=rehearsal.settled)
            return 0
        try:
            done = await once(
                parts.leases, lambda channel_id: Lane(channel_id, ruled, fitted), settings.lease_ttl_s / 3
            )
        finally:
            await parts.deliveries.drain(_LAST_DELIVERY_S)
        recorder.event(
            "info",
            "pass_ended",
            lanes=len(done),
            asked=sum(each.asked for each in done),
            settled=sum(each.settled for each in done),
            refunded=sum(each.refunded for each in done),
        )
        return 0


async def _open_for_once(
    stack: contextlib.AsyncExitStack, settings: Settings, recorder: Recorder, *, is_dry: bool
) -> Parts:
    """Open the database within the patience of a one-shot command. Raises Unavailable after that."""
    give_up = anyio.current_time() + _ONE_SHOT_PATIENCE_S
    while True:
        try:
            return await stack.enter_async_context(open_parts(settings, replica_id(), recorder, is_dry=is_dry))
        except DatabaseAway as away:
            if anyio.current_time() > give_up:
                raise Unavailable(f"database: {away}; gave up after {_ONE_SHOT_PATIENCE_S:.0f} s") from away
        await anyio.sleep(_BACKOFF_FIRST_S)
