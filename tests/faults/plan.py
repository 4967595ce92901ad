"""Random schedules: what runs, what goes wrong and when. All of it follows from a seed and a number."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from tests.faults.labels import labels

PROFILES = ("documented", "fork", "main")
WINDOW_S = 5.0
"""How long things go wrong, before everything is healed."""

WEIGHTS = {
    "kills": 4,
    "crash": 8,
    "terminations": 3,
    "commit_cuts": 5,
    "cut_all": 2,
    "hang": 1,
    "refuse": 1,
    "commit_waits": 2,
    "freeze": 2,
    "term": 2,
    "server_child": 2,
    "server_immediate": 2,
    "server_fast": 1,
    "server_killed": 1,
    "fail_over": 1,
    "read_only": 1,
    "exhaustion": 1,
    "full_disk": 1,
    "clock": 1,
    "logs_away": 2,
    "logs_cuts": 2,
    "logs_ended": 1,
    "redis_killed": 2,
    "redis_frozen": 1,
    "redis_cuts": 2,
}
"""How often each fault is chosen, relative to the others."""

DEEDS = {
    "spend": "gateway: spend",
    "flush": "gateway: flush",
    "save": "gateway: reopening",
    "sweep": "gateway: sweep",
    "hold": "gateway: hold",
    "cross": "gateway: cross",
    "migrate": "gateway: migrate",
    "delete": "gateway: delete",
}
"""What a gateway does beside the daemons, and the deed that shows that it came to it."""
HABITS = tuple(DEEDS)
RARE = {
    "batch.remembered": "not_found",
    "batch.held": "hold",
    "batch.counted": "trouble",
    "settle.refused": "deletions",
    "batch.keyed": "keys",
    "deliver.claimed": "logs",
    "deliver.sent": "redis",
    "deliver.removed": "redis",
    "deliver.put_back": "away",
    "log.locked": "logs",
    "log.added": "logs",
    "log.committed": "logs",
    "cache.sent": "redis",
    "cache.moved": "redis",
}
"""Labels that only some circumstances lead to, and which."""
OUTSIDE = {
    "logs_away": "logs",
    "logs_cuts": "logs",
    "logs_ended": "logs",
    "redis_killed": "redis",
    "redis_frozen": "redis",
    "redis_cuts": "redis",
    "lines elsewhere": "logs",
    "balances moved": "redis",
}
"""What is about something that only some gateways have outside of their database, and what that is."""
ARRIVALS = ("lines elsewhere", "balances moved")
"""What must arrive where a schedule has a place for it."""
HANDED_OVER = "fleet.released"
"""Reached by a daemon that has all lanes when others come and want theirs."""
_FROM_THE_START = {*RARE, HANDED_OVER}
"""Labels at which a daemon must kill itself that was there before all others."""
_BROKEN_SERVER = ("server_child", "server_immediate", "server_fast", "server_killed", "fail_over", "full_disk")


@dataclass(frozen=True, slots=True)
class Step:
    """One fault at one time; *label* is the crash point of a ``crash``."""

    at_s: float
    fault: str
    seed: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """One schedule. *circumstances* are what rare labels and faults need.

    Those are ``not_found``, ``hold``, ``trouble`` (at upstream), ``deletions`` (by the gateway), ``keys`` (several of a
    channel), ``logs`` (in another database), ``away`` (the same, and it cannot be reached at first), ``redis``.
    """

    seed: int
    number: int
    profile: str
    tasks: int
    replicas: int
    connections: int
    is_pooled: bool
    circumstances: frozenset[str]
    habits: tuple[str, ...]
    steps: tuple[Step, ...] = field(default=())
    about: str = ""
    """The claim that it was made for, where it was made for one."""

    @property
    def claims(self) -> frozenset[str]:
        """What a campaign with this schedule must have seen happen at least once."""
        faults = {step.fault for step in self.steps} - {"crash"}
        labelled = {f"crash at {step.label}" for step in self.steps if step.label}
        outside = {claim for claim in ARRIVALS if OUTSIDE[claim] in self.circumstances}
        deeds = {DEEDS[habit] for habit in self.habits}
        return frozenset(faults | labelled | outside | deeds | ({"pooler"} if self.is_pooled else set()))

    def __str__(self) -> str:
        steps = ", ".join(
            f"{step.at_s:.1f} {step.fault}{' ' + step.label if step.label else ''}" for step in self.steps
        )
        return (
            f"{self.number}: {self.profile}, {self.tasks} tasks, {self.replicas} replicas of {self.connections}"
            f" connections{', pooled' if self.is_pooled else ''}; {', '.join(sorted(self.circumstances)) or 'plain'};"
            f" gateway: {' '.join(self.habits)}; {steps}"
        )


def plan(seed: int, number: int, able: frozenset[str]) -> Plan:
    """Schedule *number* of the campaign *seed*. *able*: ``pooler``, and what of ``WEIGHTS`` can be made here.

    Crash points go round in turn, so that a campaign of some length reaches every one of them.
    """
    chance = random.Random(f"{seed}/{number}")
    known = [label for label in labels() if "redis" in able or RARE.get(label) != "redis"]
    is_pooled = "pooler" in able and chance.random() < 0.25
    faults = [
        fault
        for fault in WEIGHTS
        if fault in able
        and not (is_pooled and fault in ("fail_over", "exhaustion"))
        and ("redis" in able or OUTSIDE.get(fault) != "redis")
    ]
    chosen = chance.choices(faults, [WEIGHTS[fault] for fault in faults], k=chance.randint(3, 6))
    # One crash of the server at a time is enough; a second one would only meet its recovery.
    crashes = [fault for fault in chosen if fault in _BROKEN_SERVER]
    for extra in crashes[1:]:
        chosen[chosen.index(extra)] = "commit_cuts"
    if "crash" not in chosen:
        chosen[0] = "crash"
    steps = []
    common = ["not_found", "hold", "trouble", "deletions", "logs"]
    if "redis" in able and "fail_over" not in chosen:
        common.append("redis")
    circumstances = {each for each in common if chance.random() < 0.25} | {
        OUTSIDE[fault] for fault in chosen if fault in OUTSIDE
    }
    for place, fault in enumerate(chosen):
        label = ""
        if fault == "crash":
            label = chance.choice(known) if any(step.label for step in steps) else known[number % len(known)]
            circumstances |= {RARE[label]} if label in RARE else set()
        # What kills itself at a label needs work left to reach it.
        at_s = round(0.01 + chance.random() * (1.5 if label else WINDOW_S - 0.5), 2)
        steps.append(Step(0.0 if label in _FROM_THE_START else at_s, fault, f"{seed}/{number}/{place}", label))
    if "not_found" in circumstances:
        # A listed not_found ends tasks before a hold could.
        circumstances.discard("hold") if not any(
            step.label == "batch.held" for step in steps
        ) else circumstances.discard("not_found")
    if "redis" in circumstances:
        # A promotion loses what the old primary knew of claims, while Redis remembers what it was sent.
        steps = [replace(step, fault="commit_cuts") if step.fault == "fail_over" else step for step in steps]
    habits = {"spend", "flush", *chance.sample(HABITS[2:], k=chance.randint(1, 4))}
    habits |= {"delete"} if "deletions" in circumstances else set()
    return Plan(
        seed=seed,
        number=number,
        profile=chance.choice(profiles(circumstances)),
        tasks=chance.randint(150, 500),
        replicas=chance.choice((1, 2, 2, 3)),
        connections=chance.choice((1, 2, 4, 10)),
        is_pooled=is_pooled,
        circumstances=frozenset(circumstances),
        habits=tuple(habit for habit in HABITS if habit in habits),
        steps=tuple(sorted(steps, key=lambda step: step.at_s)),
    )


def all_claims() -> frozenset[str]:
    """Everything that a schedule can claim."""
    labelled = {f"crash at {label}" for label in labels()}
    return frozenset(labelled | WEIGHTS.keys() - {"crash"} | set(DEEDS.values()) | {"pooler", *ARRIVALS})


def ability(claim: str) -> str:
    """What ``plan`` must be able to for *claim* to come true; mostly that is nothing special, or the claim itself."""
    return "redis" if "redis" in (OUTSIDE.get(claim), RARE.get(claim.removeprefix("crash at "))) else claim


def focused(seed: int, number: int, claim: str) -> Plan:
    """A schedule about one of ``all_claims``, for the case that the random ones did not come to it."""
    label = claim.removeprefix("crash at ") if claim.startswith("crash at ") else ""
    fault = "crash" if label else claim if claim in WEIGHTS else "commit_cuts"
    circumstances = {table[name] for table, name in ((RARE, label), (OUTSIDE, claim)) if name in table}
    habits = {"spend", *(habit for habit, deed in DEEDS.items() if deed == claim)}
    habits |= {"delete"} if RARE.get(label) == "deletions" else set()
    chance = random.Random(f"{seed}/{number}/{claim}")
    at_s = 0.0 if label else 0.8
    return Plan(
        seed=seed,
        number=number,
        profile=chance.choice(profiles(circumstances)),
        tasks=400,
        replicas=2,
        connections=4,
        is_pooled=claim == "pooler",
        circumstances=frozenset(circumstances),
        habits=tuple(habit for habit in HABITS if habit in habits),
        steps=(Step(at_s, fault, f"{seed}/{number}/0", label),),
        about=claim,
    )


def profiles(circumstances: set[str]) -> tuple[str, ...]:
    """Gateways that can have *circumstances*. The first one knows no channel with several keys."""
    return PROFILES[1:] if "keys" in circumstances else PROFILES
