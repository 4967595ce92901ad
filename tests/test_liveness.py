"""The heart of the daemon: that an event loop which stands still is measured, said, and given up in time."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import anyio
import pytest

from poller import console, fleet, supervise
from poller.console import Console
from poller.ops.notify import Notifier
from tests.bounded import within
from tests.ops.things import recorder
from tests.test_fleet import Site, beat, state

LIMIT_S = 30.0
BEAT_S, LIVE_S, BLOCKED_S = 0.05, 0.6, 1.5


class Systemd(threading.Thread):
    """Notes when the watchdog was patted, in a thread of its own: it sees what a blocked loop does not do."""

    def __init__(self, address: Path) -> None:
        super().__init__(daemon=True)
        self.pats_at: list[float] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(address))
        self.notifier = Notifier({"NOTIFY_SOCKET": str(address)})

    def run(self) -> None:
        while (said := self._socket.recv(4096)) != b"STATUS=over":
            if said == b"WATCHDOG=1":
                self.pats_at.append(time.monotonic())


def attached(site: Site) -> Console:
    made = Console("replica", recorder()[0], [])
    made.attach(site.fleet, None, None)  # type: ignore[arg-type]
    return made


def block(seconds: float) -> tuple[float, float]:
    """Hold up everything, as a slow computation would; from when until when."""
    began = time.monotonic()
    time.sleep(seconds)
    return began, time.monotonic()


@within(LIMIT_S)
async def test_a_blocked_event_loop_is_measured_and_said_and_neither_live_nor_patted_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "_BEAT_S", BEAT_S)
    monkeypatch.setattr(console, "_LIVE_S", LIVE_S)
    site, systemd = Site(beat(state(1))), Systemd(tmp_path / "notify")
    seen, lines, _ = recorder()
    daemon = attached(site)
    systemd.start()

    async def patted(count: int) -> None:
        wanted = len(systemd.pats_at) + count
        while len(systemd.pats_at) < wanted:
            await anyio.sleep(BEAT_S / 10)

    async with anyio.create_task_group() as group:
        group.start_soon(site.fleet.run)
        group.start_soon(supervise.beat, seen, daemon.is_live, systemd.notifier.watchdog, 2 * BEAT_S)
        await patted(3)
        assert daemon.is_live()
        assert lines.events == []
        began, ended = block(BLOCKED_S)
        assert not daemon.is_live()
        while seen.metrics.loop_lag._value.get() < BLOCKED_S - 2 * BEAT_S:
            await anyio.sleep(BEAT_S / 10)
        # It turns again.
        await patted(3)
        assert daemon.is_live()
        group.cancel_scope.cancel()
    systemd.notifier.status("over")
    systemd.join()
    assert [each for each in systemd.pats_at if began + BEAT_S < each < ended] == []
    (line,) = (text for text in lines.text if "loop_blocked" in text)
    assert line.startswith("[WARN] custompass: loop_blocked duration=1.")


@within(LIMIT_S)
async def test_a_renewal_that_hangs_is_given_up_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "_BEAT_LIMIT_S", 0.05)
    site = Site(beat(state(1)))
    site.leases.beats_last = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(site.fleet.run)
        await site.beaten(3)
        assert {name for name, _ in site.recorder.events} == {"renewal_deferred"}
        assert attached(site).is_live()
        site.leases.beats_last.set()
        await site.beaten(2)
        assert site.fleet.has_beaten
        group.cancel_scope.cancel()


@within(LIMIT_S)
async def test_liveness_fails_half_a_minute_after_the_leases_should_have_been_renewed() -> None:
    site = Site(beat(state(1)))
    daemon = attached(site)
    site.fleet.due_at = anyio.current_time() - 28
    assert daemon.is_live()
    site.fleet.due_at = anyio.current_time() - 30
    assert not daemon.is_live()


@within(LIMIT_S)
async def test_leases_that_are_renewed_every_few_minutes_leave_the_daemon_live() -> None:
    site = Site(beat(state(1)), renewal_s=1200.0)
    async with anyio.create_task_group() as group:
        group.start_soon(site.fleet.run)
        await site.beaten(1)
        await anyio.lowlevel.checkpoint()
        assert site.fleet.due_at > anyio.current_time() + 1000
        group.cancel_scope.cancel()


@within(LIMIT_S)
async def test_the_watchdog_is_not_patted_while_the_daemon_is_not_live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "_BEAT_S", 0.01)
    beats, pats = 0, 0
    is_live = True

    class Counting:
        def event(self, level: str, name: str, **facts: object) -> None: ...

        def loop_lag(self, lag_s: float) -> None:
            nonlocal beats
            beats += 1

    def pat() -> None:
        nonlocal pats
        pats += 1

    async def beaten(count: int) -> None:
        wanted = beats + count
        while beats < wanted:
            await anyio.sleep(0.002)

    async with anyio.create_task_group() as group:
        group.start_soon(supervise.beat, Counting(), lambda: is_live, pat, 0.01)
        await beaten(5)
        assert pats >= 3
        is_live, before = False, pats
        await beaten(5)
        assert pats == before
        group.cancel_scope.cancel()
