"""Bugs of the house: the ledger as a whole, which server answers, whose clock it is, and leases."""

from __future__ import annotations

from tests.faults.mutations.mutation import SETTLER, Mutation, one

MUTATIONS: tuple[Mutation, ...] = (
    one(
        "a ledger that lost its rows is settled on",
        SETTLER,
        'if not locked["is_ledger_whole"]:',
        "if False:",
        "tests/postgres/test_ledger.py -k paid_again",
    ),
    one(
        "an old primary is written to after its promotion",
        "postgres/identity.py",
        " or met.timeline < known.timeline",
        "",
        "tests/postgres/test_identity.py -k promotion",
    ),
    one(
        "another server is written to",
        "postgres/identity.py",
        " or met.system != known.system",
        "",
        "tests/postgres/test_identity.py -k another_server",
    ),
    one(
        "deadlines by a clock that leapt ahead",
        "core/clock.py",
        "if ahead_s > TOLERANCE_S:",
        "if False:",
        "tests/test_walk.py -k leaps",
    ),
)
