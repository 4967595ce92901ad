"""Random schedules of faults against the real daemon, and whether the money was right after each.

    python -m tests.faults.campaign --schedules 20 --seed 7 [--minutes 10] [--only K] [--claim FAULT] [--results FILE]

What goes wrong in schedule K follows from the seed and K alone. A campaign is green when no invariant was violated and
every fault that its schedules claim to make really happened; what random schedules missed gets a schedule of its own.
A schedule that the rig itself did not carry to its checks is broken, and proves nothing.
Exit code 0: green, 1: a violation, 3: inconclusive, 4: broken schedules.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from tests.faults.abilities import abilities
from tests.faults.ground import cluster_and_nursery
from tests.faults.plan import Plan, ability, all_claims, focused, plan
from tests.faults.rig import Rig

GREEN, RED, INCONCLUSIVE, BROKEN = 0, 1, 3, 4
_MAKE_UPS = 3
"""Schedules of its own that a missed claim gets at most."""
_SCHEDULE_LIMIT_S = 240.0


@dataclass
class Tally:
    """What a campaign came to."""

    seed: int
    schedules: int = 0
    settlements: int = 0
    hits: Counter[str] = field(default_factory=Counter)
    claims: set[str] = field(default_factory=set)
    violations: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    """Schedules that the rig did not carry to their checks; nothing that happened in them is counted."""
    skipped: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    slowest_s: float = 0.0
    """The longest that any schedule needed, after its last fault, until nothing was open."""

    @property
    def missed(self) -> list[str]:
        """Claims that never came true."""
        return sorted(claim for claim in self.claims if not self.hits[claim])

    @property
    def code(self) -> int:
        if self.violations:
            return RED
        if self.broken:
            return BROKEN
        return INCONCLUSIVE if self.missed or not self.schedules or not self.settlements else GREEN

    def lines(self) -> list[str]:
        """The figures, for a person."""
        hits = self.hits
        cuts = sum(hits[f"cut: {how}"] for how in ("request", "during", "late", "reply"))
        labels = sum(1 for name in hits if name.startswith("crash at "))
        said = [
            f"seed {self.seed}: {self.schedules} schedules in {self.seconds:.0f} s,"
            f" {self.settlements} settlements checked, all done at most {self.slowest_s:.1f} s after the last fault",
            f"processes killed: {hits['kill']} (at {labels} labelled places: "
            f"{sum(count for name, count in hits.items() if name.startswith('crash at '))}), frozen past their lease:"
            f" {hits['freeze']}, stopped by SIGTERM: {hits['term']}",
            f"server restarts: {hits['restart']}, promotions: {hits['promotion']} (acknowledged settlements lost with"
            f" the old primary: {hits['settlements lost by promotion']}), disk full: {hits['full_disk']}, read-only:"
            f" {hits['read_only']}, out of connections: {hits['exhaustion']}",
            f"COMMITs cut: {cuts} (before {hits['cut: request']}, within {hits['cut: during']}, right after"
            f" {hits['cut: late']}, answer lost {hits['cut: reply']}), killed while COMMIT waited:"
            f" {hits['commit_waits']}, connections cut: {hits['cut: all']}, hung: {hits['cut: hang']},"
            f" backends terminated: {hits['terminations']}",
            f"log lines in another database checked: {hits['lines elsewhere']} (it was away for"
            f" {hits['logs_away']} connections, COMMITs cut: {hits['logs_cuts']}, backends terminated:"
            f" {hits['logs_ended']}); cached balances moved: {hits['balances moved']}, left for doubt:"
            f" {hits['balances not moved']} (Redis killed: {hits['redis_killed']}, frozen: {hits['redis_frozen']},"
            f" connections cut: {hits['redis_cuts']})",
            "gateway beside it: "
            + ", ".join(
                f"{name.removeprefix('gateway: ')} {count}" for name, count in sorted(hits.items()) if "gateway" in name
            ),
            *(f"left out: {name}: {why}" for name, why in self.skipped.items()),
            *(f"never happened: {claim}" for claim in self.missed),
            *(f"broken: {broken}" for broken in self.broken),
            f"violations: {len(self.violations)}, broken schedules: {len(self.broken)}",
        ]
        verdict = {GREEN: "green", RED: "RED", INCONCLUSIVE: "INCONCLUSIVE", BROKEN: "BROKEN"}[self.code]
        left_out = f", but without {', '.join(sorted(self.skipped))}" if self.code == GREEN and self.skipped else ""
        return [*said, verdict + left_out]


class Campaign:
    """Runs schedules side by side, each worker with a cluster of its own."""

    def __init__(self, seed: int, *, folder: Path, is_talkative: bool = True) -> None:
        self.tally = Tally(seed)
        self._folder = folder
        self._is_talkative = is_talkative

    async def run(
        self,
        schedules: int,
        *,
        minutes: float | None = None,
        workers: int = 1,
        only: int | None = None,
        claim: str = "",
        makes_up: bool = True,
    ) -> Tally:
        """*schedules* of them, or as many as *minutes* allow; or *only* one; or *claim* alone."""
        tally = self.tally
        began = time.monotonic()
        give_up = began + minutes * 60 if minutes else None
        numbers = iter([only] if only is not None else range(schedules if give_up is None else sys.maxsize))
        async with contextlib.AsyncExitStack() as stack:
            stands = [await stack.enter_async_context(_stand()) for _ in range(workers)]
            able, tally.skipped = abilities(stands[0][0])
            if ability(claim) in tally.skipped:
                tally.claims.add(claim)
                return tally
            chosen = ((focused(tally.seed, n, claim) if claim else plan(tally.seed, n, able)) for n in numbers)
            await self._side_by_side(chosen, stands, give_up)
            for turn in range(_MAKE_UPS if makes_up and only is None and not claim else 0):
                first = 1_000_000 + 1000 * turn
                again = [focused(tally.seed, first + n, missed) for n, missed in enumerate(tally.missed)]
                await self._side_by_side(iter(again), stands, None)
        tally.seconds = time.monotonic() - began
        return tally

    async def _side_by_side(self, plans: Iterator[Plan], stands: list, give_up: float | None) -> None:  # type: ignore[type-arg]
        """Run *plans*, one at a time on each of *stands*, begun before *give_up*."""

        async def work(stand) -> None:  # type: ignore[no-untyped-def]
            while give_up is None or time.monotonic() < give_up:
                made = next(plans, None)
                if made is None:
                    return
                await self._one(made, stand)

        async with anyio.create_task_group() as group:
            for stand in stands:
                group.start_soon(work, stand)

    async def _one(self, made: Plan, stand) -> None:  # type: ignore[no-untyped-def]
        cluster, nursery = stand
        rig = Rig(made, cluster, nursery, self._folder)
        self._say(str(made))
        tally = self.tally
        again = f"python -m tests.faults.campaign --seed {made.seed} --only {made.number}"
        again += f" --claim '{made.about}'" if made.about else ""
        tally.schedules += 1
        tally.claims |= made.claims
        try:
            with anyio.fail_after(_SCHEDULE_LIMIT_S):
                await rig.run()
        except Exception as broken:  # noqa: BLE001 - a supervision point
            tally.broken.append(f"schedule {made.number}: {broken!r}")
            self._say(f"{''.join(traceback.format_exception(broken))}BROKEN: schedule {made.number}\n  again: {again}")
        else:
            self._say(f"{made.number}: {rig.settlements} settlements, done {rig.drained_s:.1f} s after the last fault")
            tally.slowest_s = max(tally.slowest_s, rig.drained_s)
            tally.settlements += rig.settlements
            tally.hits.update(rig.hits)
        for wrong in rig.wrong:
            tally.violations.append(f"schedule {made.number}: {wrong}")
            self._say(f"VIOLATION in schedule {made.number}: {wrong}\n  again: {again}")

    def _say(self, text: str) -> None:
        if self._is_talkative:
            print(text, flush=True)


@contextlib.asynccontextmanager
async def _stand() -> AsyncIterator[tuple[object, object]]:
    async with cluster_and_nursery() as stand:
        yield stand


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.campaign", description=__doc__)
    parser.add_argument("--schedules", type=int, default=20)
    parser.add_argument("--seed", type=int, default=None, help="default: a random one, printed")
    parser.add_argument("--minutes", type=float, default=None, help="run for so long, whatever --schedules says")
    parser.add_argument("--only", type=int, default=None, metavar="K", help="schedule K alone")
    parser.add_argument("--claim", default="", help="a schedule about this one fault, such as 'crash at settle.locked'")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--results", type=Path, default=None, help="write the figures to this file as JSON")
    asked = parser.parse_args()
    if asked.claim and asked.claim not in all_claims():
        parser.error(f"--claim is one of: {', '.join(sorted(all_claims()))}")
    seed = asked.seed if asked.seed is not None else random.SystemRandom().randrange(2**31)
    folder = Path(tempfile.mkdtemp(prefix="poller-campaign-"))
    print(f"seed {seed}, logs in {folder}", flush=True)
    only = 0 if asked.claim and asked.only is None else asked.only
    campaign = Campaign(seed, folder=folder)
    workers = 1 if only is not None else asked.workers
    tally = anyio.run(
        lambda: campaign.run(asked.schedules, minutes=asked.minutes, workers=workers, only=only, claim=asked.claim)
    )
    print("\n".join(tally.lines()), flush=True)
    if asked.results:
        machine = (
            f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}"
        )
        found = {
            **vars(tally),
            "claims": sorted(tally.claims),
            "missed": tally.missed,
            "code": tally.code,
            "machine": machine,
        }
        asked.results.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    if tally.code not in (RED, BROKEN):
        shutil.rmtree(folder, ignore_errors=True)
    return tally.code


if __name__ == "__main__":
    sys.exit(main())
