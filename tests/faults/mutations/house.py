"""Bugs of the house: the ledger as a whole, which server answers, whose clock it is, and leases."""

from __future__ import annotations

from tests.faults.mutations.mutation import SETTLER, Mutation, one

_KNOWN = "postgres/identity.py"

_LEDGER = "tests/postgres/test_ledger.py"
_IDENTITY = "tests/postgres/test_identity.py"

MUTATIONS: tuple[Mutation, ...] = (
    one(
        "a ledger that lost its rows is settled on",
        SETTLER,
        'if not locked["is_ledger_whole"]:',
        "if False:",
        f"{_LEDGER} -k paid_again",
    ),
    one(
        "an old primary is written to after its promotion",
        _KNOWN,
        " or met.timeline < known.timeline",
        "",
        f"{_IDENTITY} -k promotion",
    ),
    one(
        "another server is written to",
        _KNOWN,
        " or met.system != known.system",
        "",
        f"{_IDENTITY} -k another_server",
    ),
    one(
        "deadlines by a clock that leapt ahead",
        "core/clock.py",
        "if ahead_s > TOLERANCE_S:",
        "if False:",
        "tests/test_walk.py -k leaps",
    ),
    one(
        "ledger that lost its rows is whole to the statement that looks",
        "postgres/sql/*/lock.sql",
        "WHERE c.ledger_at > now() - interval '7 days'",
        "WHERE c.ledger_at > now() + interval '7 days'",
        f"{_LEDGER} -k paid_again",
    ),
    one(
        "note of the ledger follows what is left of it",
        "postgres/sql/own/ledger_note.sql",
        "WHERE (state.is_there OR state.is_recent IS NOT TRUE)\n",
        "WHERE true\n",
        f"{_LEDGER} -k paid_again",
    ),
    one(
        "server that no longer says who it is is written to",
        _KNOWN,
        "        if known is None:\n            return\n",
        "        if known is None or met is None:\n            return\n",
        f"{_IDENTITY}::test_a_server_that_no_longer_says_who_it_is_is_not_written_to",
    ),
    one(
        "connections to an old primary are kept",
        _KNOWN,
        "return identity is not None and identity != self.identity",
        "return False",
        f"{_IDENTITY}::test_connections_to_the_old_primary_end_when_another_one_was_met",
    ),
    one(
        "new connections are made to whatever answers",
        "postgres/pool.py",
        "if server.identity is not None and not is_pooled:",
        "if server.identity is None and not is_pooled:",
        f"{_IDENTITY}::test_another_server_behind_the_address_is_never_written_to",
    ),
    one(
        "behind a pooler, transactions run on whatever answers",
        "postgres/database.py",
        "if self.is_pooled and self.server.identity is not None:",
        "if self.is_pooled and self.server.identity is None:",
        f"{_IDENTITY}::test_another_server_behind_a_pooler_is_never_written_to",
    ),
)
