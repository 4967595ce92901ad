"""One schedule, run: a gateway with witnesses, an upstream, daemons, a rival, faults; then healing and checks."""

from __future__ import annotations

import contextlib
import itertools
import random
import re
import signal
from collections import Counter, defaultdict
from pathlib import Path

import anyio

from poller.demo.fates import Lives
from poller.demo.troubles import Trouble
from tests.e2e.harness import upstream
from tests.faults import checker
from tests.faults.cluster import Cluster
from tests.faults.ground import Ground
from tests.faults.nursery import Child, Nursery
from tests.faults.outside import Outside
from tests.faults.plan import HANDED_OVER, WINDOW_S, Plan
from tests.faults.pooler import pooler
from tests.faults.proxy import Proxy, Target
from tests.faults.rival import Rival
from tests.faults.upstream import SPREAD_S, PatientSimulator

LEASE_S = 1.0
_REFUSALS = 6
"""Enough for every replica to find a log database away that is away at first."""
DRAIN_LIMIT_S = 90.0
_TROUBLE = Trouble(
    failing=0.05,
    babbling=0.03,
    slow_s=0.1,
    strange=0.03,
    unknown_word=0.1,
    not_found=0.05,
    absent=0.05,
    doubled=0.05,
    unreadable=0.03,
    heals_after_s=WINDOW_S,
)
_PACE = {
    "CUSTOM_PASS_POLL_INTERVAL": "300ms",
    "CUSTOM_PASS_LEASE_TTL": f"{LEASE_S:g}s",
    "CUSTOM_PASS_RETRY_DELAY": "50ms",
    "CUSTOM_PASS_TASK_TIMEOUT": "2s",
    "CUSTOM_PASS_BATCH_SIZE": "7",
    "CUSTOM_PASS_DRAIN_TIMEOUT": "5s",
    "ENABLE_METRICS": "false",
    "LOG_FORMAT": "text",
}
_COMPLAINTS = re.compile(
    "Traceback|this is a bug|lane_failed|loop_failed|was never (?:retrieved|awaited)|never retrieved|demo-key-"
)


class Rig:
    """What the faults of one schedule work on. ``hits`` counts what really happened, ``wrong`` what must not."""

    def __init__(self, plan: Plan, cluster: Cluster, nursery: Nursery, folder: Path) -> None:
        self.plan = plan
        self.cluster = cluster
        self.nursery = nursery
        self.proxy = Proxy(lambda: self._pooler or cluster.socket)
        self._pooler: Target | None = None
        self.ground = Ground(plan, cluster)
        self.dsn, self.admin = self.ground.dsn, self.ground.ask
        self.outside = Outside(
            plan.profile, plan.circumstances, lambda: self._pooler or cluster.socket, refusals=_REFUSALS
        )
        self.chance = random.Random(f"{plan.seed}/{plan.number}/rig")
        self.hits: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.settlements = 0
        self.drained_s = 0.0
        """How long it took after the last fault until nothing was open."""
        self.alive: list[Child] = []
        self.armed: dict[Child, str] = {}
        self.frozen: set[Child] = set()
        self._turns: defaultdict[str, anyio.Lock] = defaultdict(anyio.Lock)
        self._all: list[Child] = []
        self._logs = itertools.count()
        self.folder = folder

    # -- daemons -----------------------------------------------------------------------------------------------------

    def _settings(self) -> dict[str, str]:
        dsn = f"postgresql://postgres@127.0.0.1:{self.proxy.port}/{self.ground.name}?sslmode=disable"
        settings = {**_PACE, "SQL_DSN": dsn, "CUSTOM_PASS_DB_MAX_OPEN_CONNS": str(self.plan.connections)}
        settings |= self.outside.settings()
        if "hold" in self.plan.circumstances:
            settings["CUSTOM_PASS_DEADLINE_POLICY"] = "hold"
        if "not_found" in self.plan.circumstances:
            settings["CUSTOM_PASS_STATUS_FAILED"] = "failed,error,cancelled,not_found"
        return settings

    async def spawn(self, *, crash_at: str = "", preload: dict[str, str] | None = None) -> Child:
        """One more daemon, perhaps one that will kill itself at a label."""
        settings = self._settings()
        if crash_at:
            settings["CUSTOM_PASS_CRASH_AT"] = crash_at
        # Two may be on their way at once, and each is told by what its own log says.
        log = self.folder / f"{self.plan.number}-{next(self._logs)}.log"
        child = await self.nursery.spawn(settings | (preload or {}), log, is_fresh=preload is not None)
        if crash_at:
            self.armed[child] = crash_at.partition(":")[0]
        self.alive.append(child)
        self._all.append(child)
        return child

    def some_daemon(self) -> Child | None:
        """A daemon that runs, is not frozen, and not about to kill itself."""
        running = [child for child in self.alive if child.code is None and child not in self.frozen | self.armed.keys()]
        return self.chance.choice(running) if running else None

    async def fell(self, child: Child) -> bool:
        """SIGKILL a daemon; whether it was alive until then."""
        if child not in self.alive:
            return False
        self.alive.remove(child)
        was_alive = child.signal(signal.SIGKILL)
        await child.ended()
        return was_alive

    async def stopped(self, child: Child) -> None:
        """Wait for a daemon that was told to stop; it must end, and well."""
        try:
            code = await child.ended()
        except TimeoutError:
            self.wrong.append(f"a daemon that was told to stop went on: {child.said()[-600:]}")
            return
        if code:
            self.wrong.append(f"a daemon that was told to stop ended with {code}: {child.said()[-600:]}")

    async def _bury(self) -> None:
        """Note which daemons killed themselves, and put others in their place."""
        for child in [child for child in self.alive if child.code is not None]:
            if child not in self.alive:
                # Felled while the one before it was replaced.
                continue
            self.alive.remove(child)
            label = self.armed.pop(child, "")
            if child.code == -signal.SIGKILL and label:
                self.hits[f"crash at {label}"] += 1
                self.hits["kill"] += 1
            else:
                self.wrong.append(f"a daemon ended by itself with {child.code}: {child.said()[-600:]}")
            await self.spawn()

    # -- the run -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """All of it. What is wrong is in ``wrong`` afterwards."""
        from tests.faults.nemesis import FAULTS

        lives = Lives(seed=self.plan.number, shortest_s=0.1, typical_s=1.5, longest_s=WINDOW_S)
        is_troubled = not self.plan.circumstances.isdisjoint(("trouble", "not_found"))
        troubles = {f"/ch{n}": _TROUBLE for n in (1, 2)} if is_troubled else {}
        keys = {f"/ch{n}": f"demo-key-{n}" for n in (1, 2, 3, 4)} if "keys" in self.plan.circumstances else None
        simulator = PatientSimulator(
            lambda: bool(self.armed), seed=self.plan.number, lives=lives, troubles=troubles, keys=keys
        )
        await self.proxy.start()
        try:
            async with contextlib.AsyncExitStack() as stack:
                if self.plan.is_pooled:
                    self._pooler = ("127.0.0.1", await stack.enter_async_context(pooler(self.cluster)))
                url = await stack.enter_async_context(upstream(simulator))
                await self.ground.seed(url, simulator)
                connection = await self.ground.connect()
                await self.outside.open(connection, self.dsn())
                await connection.close()
                rival = Rival(self.plan.profile, self.dsn, self.chance)
                async with anyio.create_task_group() as gateway:
                    gateway.start_soon(rival.run, self.plan.habits)
                    for step in self.plan.steps:
                        if step.label and step.at_s == 0:
                            first = await self.spawn(crash_at=f"{step.label}:1")
                            await self._leads(first, step.label)
                    for _ in range(self.plan.replicas):
                        await self.spawn()
                    async with anyio.create_task_group() as nemesis:
                        began = anyio.current_time()
                        for step in self.plan.steps:
                            nemesis.start_soon(self._at, began + step.at_s, FAULTS[step.fault], step)
                        while (now := anyio.current_time()) < began + WINDOW_S or (
                            self.armed and now < began + SPREAD_S
                        ):
                            await anyio.sleep(0.1)
                            await self._bury()
                    gateway.cancel_scope.cancel()
                self.hits.update({f"gateway: {deed}": count for deed, count in rival.did.items()})
                self.hits.update({f"cut: {how}": count for how, count in self.proxy.cuts.items()})
                self.hits["pooler"] += self.plan.is_pooled
                await self._heal()
                await self._drain()
                await self._end()
                await self._check()
        finally:
            for child in self._all:
                child.signal(signal.SIGKILL)
            for child in self._all:
                await child.ended()
            await self.proxy.close()
            await self.outside.close()

    async def _leads(self, child: Child, label: str) -> None:
        """Let *child* work alone until it is over, or, where it shall hand lanes over, until it has them all."""
        free = "SELECT FROM poller.lane HAVING count(*) FILTER (WHERE lease_until > now()) < 4"
        with anyio.move_on_after(SPREAD_S):
            while child.code is None and (label != HANDED_OVER or await self.admin(free)):
                await anyio.sleep(0.02)

    async def holds(self, child: Child) -> set[int]:
        """The channels that *child* has leases of."""
        mine = "SELECT channel_id FROM poller.lane WHERE holder LIKE $1 AND lease_until > now()"
        return {row["channel_id"] for row in await self.admin(mine, f"%-{child.pid}-%")}

    async def _at(self, when: float, fault, step) -> None:  # type: ignore[no-untyped-def]
        await anyio.sleep(max(0.0, when - anyio.current_time()))
        if step.label:
            await fault(self, step)
        else:
            # One of a kind at a time: the end of one would heal what the other is about.
            async with self._turns[step.fault]:
                await fault(self, step)

    async def _heal(self) -> None:
        """Everything works again; the daemons that live go on, and those that do not are replaced."""
        self.proxy.heal()
        self.outside.heal()
        for child in self.frozen:
            child.signal(signal.SIGCONT)
        self.frozen.clear()
        await self.cluster.ready()
        # A standby that missed the end of a fault before it was promoted goes on with it.
        await self.admin("ALTER SYSTEM RESET synchronous_standby_names")
        await self.admin("SELECT pg_reload_conf()")
        if any(step.fault == "read_only" for step in self.plan.steps):
            await self.set_read_only(False)
        await self._bury()
        for child in list(self.armed):
            # Its label was not reached in time: that is for the campaign to count.
            await self.fell(child)
            del self.armed[child]
            await self.spawn()

    async def set_read_only(self, is_on: bool) -> None:
        """Let the database take no writes of new sessions, or all again; those of the daemons are ended for it."""
        how = "SET default_transaction_read_only = on" if is_on else "RESET default_transaction_read_only"
        await self.admin(f"ALTER DATABASE {self.ground.name} {how}")
        # A pooler's sessions may have no name yet.
        await self.admin(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name NOT IN ('rig', 'gateway', 'crowd')"
        )

    async def _drain(self) -> None:
        """Wait until nothing is open that the daemons could settle, and nothing noted that they could forget."""
        question = checker.unfinished()
        began = anyio.current_time()
        with anyio.move_on_after(DRAIN_LIMIT_S):
            while await self.admin(question):
                # In profile fork a second writer stops its channel until a person says go on.
                await self.admin("UPDATE poller.lane SET is_paused = false, pause_reason = '' WHERE is_paused")
                # What a replica had claimed that is no more would be free in a minute; one that lives may be claiming.
                await self.admin(checker.FREE_CLAIMS + " AND due_at < now() + interval '59 s'")
                await anyio.sleep(0.1)
                await self._bury()
        self.drained_s = anyio.current_time() - began

    async def _end(self) -> None:
        for child in self.alive:
            await child.says("daemon_started")
            child.signal(signal.SIGTERM)
        for child in self.alive:
            await self.stopped(child)
        with anyio.move_on_after(5):
            while await self.admin("SELECT FROM pg_stat_activity WHERE application_name LIKE 'poller/%'"):
                if self.plan.is_pooled:
                    # The pooler keeps them for others.
                    await self.admin(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE application_name LIKE 'poller/%' AND state = 'idle'"
                    )
                await anyio.sleep(0.05)

    async def _check(self) -> None:
        connection = await self.ground.connect()
        await self.outside.testify(connection, self.dsn())
        # Nobody hands back the leases of a replica that was killed, by us or by itself at a label.
        felled = [(f"felled {child.pid}",) for child in self._all if child.code == -signal.SIGKILL]
        await connection.copy_records_to_table("rule", schema_name="inv", records=felled)
        self.settlements = await connection.fetchval("SELECT count(*) FROM poller.ledger")
        self.wrong += [str(violation) for violation in await checker.violations(connection)]
        self.hits.update(await checker.handed_over(connection))
        await connection.close()
        for child in self._all:
            if complaint := _COMPLAINTS.search(child.said()):
                line = next(line for line in child.said().splitlines() if complaint[0] in line)
                self.wrong.append(f"{child.log.name} says {line[:600]}")
        if not self.wrong:
            await self.ground.drop()
