"""The faults that schedules choose from. Each counts in ``rig.hits`` what it really did, under its own name."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections.abc import Awaitable, Callable

import anyio
import asyncpg

from tests.faults import nemesis_outside as outside
from tests.faults.fake_clock import FakeClock
from tests.faults.plan import Step
from tests.faults.proxy import HOWS
from tests.faults.rig import LEASE_S, Rig

Fault = Callable[[Rig, Step], Awaitable[None]]
_OURS = "application_name LIKE 'poller/%' AND datname = current_database()"
_PATIENCE_S = 15.0
"""How long to wait for what a fault needs, or for what must come of it, before it did not happen."""
_AWAY = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


# -- processes -------------------------------------------------------------------------------------------------------


async def kills(rig: Rig, step: Step) -> None:
    """Random ``kill -9``, one after the other, each replaced at once."""
    chance = random.Random(step.seed)
    for _ in range(chance.randint(3, 10)):
        child = rig.some_daemon()
        if child is not None:
            was_alive = await rig.fell(child)
            rig.hits["kills"] += was_alive
            rig.hits["kill"] += was_alive
            await rig.spawn()
        await anyio.sleep(0.05 + chance.random() * 0.5)


async def crash(rig: Rig, step: Step) -> None:
    """A daemon that kills itself at a label; what came of it is counted when it is buried."""
    if step.at_s == 0:
        # It was there from the start.
        return
    child = rig.some_daemon()
    if child is not None and len(rig.alive) > 1 + len(rig.armed):
        rig.hits["kill"] += await rig.fell(child)
    armed = await rig.spawn(crash_at=f"{step.label}:{random.Random(step.seed).choice((1, 1, 2))}")
    with anyio.move_on_after(_PATIENCE_S):
        while armed.code is None and not await rig.holds(armed):
            # Nobody hands over what is not more than a fair share: those that have it make room, one by one.
            await anyio.sleep(LEASE_S)
            if not await rig.holds(armed) and (other := rig.some_daemon()) and len(rig.alive) > 1 + len(rig.armed):
                rig.hits["kill"] += await rig.fell(other)


async def freeze(rig: Rig, step: Step) -> None:
    """SIGSTOP until long after the lease has gone to another replica, then SIGCONT."""
    # Others must be there to take over.
    helper = await rig.spawn()
    held: set[int] = set()
    child = None
    with anyio.move_on_after(_PATIENCE_S):
        while not held:
            await anyio.sleep(0.02)
            child = rig.some_daemon()
            held = await rig.holds(child) if child is not None and child is not helper else set()
    if child is None or child.code is not None or not held:
        return
    rig.frozen.add(child)
    child.signal(signal.SIGSTOP)
    theirs = "SELECT FROM poller.lane WHERE channel_id = ANY($1) AND holder NOT LIKE $2 AND lease_until > now()"
    with anyio.move_on_after(_PATIENCE_S):
        await anyio.sleep(LEASE_S * 2.5)
        while not (taken := await rig.admin(theirs, list(held), f"%-{child.pid}-%")):
            await anyio.sleep(0.05)
        rig.hits["freeze"] += bool(taken)
    rig.frozen.discard(child)
    child.signal(signal.SIGCONT)
    await anyio.sleep(0.5)
    if helper in rig.alive and helper.code is None and helper not in rig.frozen:
        rig.hits["kill"] += await rig.fell(helper)


async def term(rig: Rig, step: Step) -> None:
    """SIGTERM in the middle of work: it must end with 0."""
    child = rig.some_daemon()
    if child is None:
        return
    rig.alive.remove(child)
    await child.says("daemon_started")
    child.signal(signal.SIGTERM)
    await rig.stopped(child)
    rig.hits["term"] += 1
    await rig.spawn()


async def clock(rig: Rig, step: Step) -> None:
    """A replica whose wall clock jumps by hours, back and forth, while those of the others stand where they are."""
    wall = FakeClock(rig.folder / f"clock-{step.seed.replace('/', '-')}")
    child = await rig.spawn(preload=wall.preload())
    with anyio.move_on_after(_PATIENCE_S):
        await child.says("daemon_started")
        for jump_s in (-3600, 7200, -600, 600):
            wall.set(jump_s)
            rig.hits["clock"] += await wall.is_shown_by(child)
            await anyio.sleep(0.6)


# -- connections -----------------------------------------------------------------------------------------------------


async def terminations(rig: Rig, step: Step) -> None:
    """``pg_terminate_backend`` at random moments."""
    chance = random.Random(step.seed)
    with anyio.move_on_after(1.5), contextlib.suppress(*_AWAY):
        connection = await asyncpg.connect(rig.dsn(), server_settings={"application_name": "rig"})
        try:
            while True:
                await anyio.sleep(0.004 + chance.random() * 0.05)
                ended = await connection.fetchval(
                    f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {_OURS} AND random() < 0.5"
                )
                rig.hits["terminations"] += ended
        finally:
            connection.terminate()


async def commit_cuts(rig: Rig, step: Step) -> None:
    """Connections cut before, during and after COMMIT."""
    chance = random.Random(step.seed)
    before = rig.proxy.cuts.total()
    rig.proxy.cut_commits([chance.choice(HOWS) for _ in range(chance.randint(4, 16))])
    with anyio.move_on_after(3):
        while rig.proxy.cuts.total() == before:
            await anyio.sleep(0.05)
    rig.hits["commit_cuts"] += rig.proxy.cuts.total() - before


async def cut_all(rig: Rig, step: Step) -> None:
    """All connections reset at once, three times."""
    for _ in range(3):
        rig.hits["cut_all"] += rig.proxy.cut_all()
        await anyio.sleep(0.3)


async def hang(rig: Rig, step: Step) -> None:
    """A black hole between the daemons and the database."""
    rig.proxy.hang()
    await anyio.sleep(1.0 + random.Random(step.seed).random())
    rig.hits["hang"] += rig.proxy.cuts["hang"]
    rig.proxy.heal()


async def refuse(rig: Rig, step: Step) -> None:
    """Open connections are reset and new ones refused for a while."""
    rig.proxy.is_refusing = True
    rig.hits["refuse"] += rig.proxy.cut_all()
    await anyio.sleep(1.0)
    rig.proxy.is_refusing = False


async def commit_waits(rig: Rig, step: Step) -> None:
    """COMMIT waits for a synchronous standby that is not there, and the session is killed while it waits."""
    await rig.admin("ALTER SYSTEM SET synchronous_standby_names = 'nosuch'")
    await rig.admin("SELECT pg_reload_conf()")
    try:
        with anyio.move_on_after(2):
            while not rig.hits["commit_waits"]:
                rows = await rig.admin(
                    f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {_OURS} AND wait_event = 'SyncRep'"
                )
                rig.hits["commit_waits"] += len(rows)
                await anyio.sleep(0.05)
    finally:
        with anyio.CancelScope(shield=True):
            await rig.admin("ALTER SYSTEM RESET synchronous_standby_names")
            await rig.admin("SELECT pg_reload_conf()")


async def exhaustion(rig: Rig, step: Step) -> None:
    """Somebody takes every connection that the server has, and ours are cut."""
    taken: list[asyncpg.Connection] = []
    seen = rig.cluster.log().count("too many clients")
    try:
        with contextlib.suppress(*_AWAY):
            while len(taken) < 80:
                taken.append(await asyncpg.connect(rig.dsn(), server_settings={"application_name": "crowd"}))
        rig.proxy.cut_all()
        await anyio.sleep(0.3)
        with contextlib.suppress(*_AWAY):
            while len(taken) < 80:
                taken.append(await asyncpg.connect(rig.dsn(), server_settings={"application_name": "crowd"}))
        await anyio.sleep(1.0)
    finally:
        for connection in taken:
            connection.terminate()
    rig.hits["exhaustion"] += rig.cluster.log().count("too many clients") - seen


# -- the server ------------------------------------------------------------------------------------------------------


async def server_child(rig: Rig, step: Step) -> None:
    """A server process dies: all sessions drop, the server recovers."""
    with contextlib.suppress(*_AWAY):
        await rig.cluster.crash_child()
        rig.hits["server_child"] += 1
        rig.hits["restart"] += 1


async def server_immediate(rig: Rig, step: Step) -> None:
    """Immediate shutdown and restart."""
    await rig.cluster.restart(signal.SIGQUIT)
    rig.hits["server_immediate"] += 1
    rig.hits["restart"] += 1


async def server_fast(rig: Rig, step: Step) -> None:
    """Fast shutdown and restart."""
    await rig.cluster.restart(signal.SIGINT)
    rig.hits["server_fast"] += 1
    rig.hits["restart"] += 1


async def server_killed(rig: Rig, step: Step) -> None:
    """``kill -9`` of the postmaster, and a restart."""
    await rig.cluster.restart(signal.SIGKILL)
    rig.hits["server_killed"] += 1
    rig.hits["restart"] += 1


async def fail_over(rig: Rig, step: Step) -> None:
    """The primary dies after it acknowledged commits that its standby never got; the standby is promoted."""
    count = "SELECT count(*) FROM poller.ledger"
    await rig.cluster.make_standby()
    frozen = await rig.cluster.stop_streaming()
    (before,) = await rig.admin(count)
    with anyio.move_on_after(4):
        while (await rig.admin(count))[0][0] < before[0] + 10:
            await anyio.sleep(0.05)
    (acknowledged,) = await rig.admin(count)
    await rig.cluster.fail_over(frozen)
    (left,) = await rig.admin(count)
    rig.hits["promotion"] += 1
    rig.hits["settlements lost by promotion"] += max(0, acknowledged[0] - left[0])
    rig.hits["fail_over"] += left[0] < acknowledged[0]


async def read_only(rig: Rig, step: Step) -> None:
    """The name now leads to a server that takes no writes."""
    await rig.set_read_only(True)
    try:
        await anyio.sleep(1.2)
        with anyio.move_on_after(_PATIENCE_S):
            while not any("read_only" in child.said() for child in rig.alive):
                await anyio.sleep(0.1)
    finally:
        with anyio.CancelScope(shield=True):
            await rig.set_read_only(False)
    rig.hits["read_only"] += sum("read_only" in child.said() for child in rig.alive)


async def full_disk(rig: Rig, step: Step) -> None:
    """No room left for data and log."""
    seen = rig.cluster.log().count("No space left")
    with rig.cluster.full_disk():
        give_up = time.monotonic() + 3
        while rig.cluster.log().count("No space left") == seen and time.monotonic() < give_up:
            await anyio.sleep(0.1)
        await anyio.sleep(0.5)
    rig.hits["full_disk"] += rig.cluster.log().count("No space left") - seen
    await rig.cluster.ready()


FAULTS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        kills,
        crash,
        freeze,
        term,
        clock,
        terminations,
        commit_cuts,
        cut_all,
        hang,
        refuse,
        commit_waits,
        exhaustion,
        server_child,
        server_immediate,
        server_fast,
        server_killed,
        fail_over,
        read_only,
        full_disk,
        *outside.FAULTS,
    )
}
