"""Seeded money bugs: each a patch of the daemon's text, and the tests of which at least one must fail on it.

``settle`` in a path stands for the file of each profile; a patch must apply exactly once in each of its files.
"""

from __future__ import annotations

from typing import NamedTuple

SETTLE = "postgres/sql/*/settle.sql"
LOCK = "postgres/sql/*/lock.sql"
DOCUMENTED = "postgres/sql/documented/settle.sql"
FORK = "postgres/sql/fork/settle.sql"
MAIN = "postgres/sql/main/settle.sql"
SETTLER = "postgres/settle.py"
COLUMNS = "postgres/columns.py"

_SETTLE = "tests/postgres/test_settle.py"
_PROFILES = "tests/postgres/test_settle_profiles.py"
_FAULTS = "tests/postgres/test_settle_faults.py"
_POOL = "tests/postgres/test_pool.py"
_DECIDE = "tests/core/test_decide.py"
_PRICING = "tests/core/test_pricing.py"
_CRASH = "tests/faults/test_crash_points.py"
_MODEL = "tests/faults/test_model.py"
_RACES = "tests/postgres/test_settle_races.py"
_MONEY_CRASHES = f"{_CRASH}::test_settlement_that_is_interrupted_is_whole_or_not_at_all"


class Patch(NamedTuple):
    """*old* becomes *new* in *path*, which is below ``poller/`` and may hold a ``*``."""

    path: str
    old: str
    new: str


class Mutation(NamedTuple):
    """One bug by name. *tests* are pytest node ids, perhaps with a ``-k`` expression after a blank."""

    name: str
    patches: tuple[Patch, ...]
    tests: tuple[str, ...]


def _one(name: str, path: str, old: str, new: str, *tests: str) -> Mutation:
    return Mutation(name, (Patch(path, old, new),), tests)


_NO_ROW_COUNT = tuple(
    Patch(path, "WHEN (SELECT count(*) FROM paid) <> (SELECT count(*) FROM owed) THEN 'user_row'", "WHEN false THEN ''")
    for path in (SETTLE,)
)
_PAY = (
    "from poller.postgres.statements import Statement as S\n"
    "{indent}for one in batch:\n"
    '{indent}    await self._database.fetch(S("pay", "UPDATE users SET quota = quota + $2 WHERE id = $1"),'
    " one.task.user_id, one.task.reserved - (one.task.reserved if one.charged is None else one.charged))\n"
)
_NO_PAYMENT = Patch(SETTLE, "WHERE u.id = owed.user_id", "WHERE u.id = owed.user_id AND u.id < 0")

MUTATIONS: tuple[Mutation, ...] = (
    # -- the guard and the key
    Mutation(
        "guard removed: a final row is settled again",
        (
            Patch(
                SETTLE,
                "NOT seen.is_in_ledger AND seen.is_owed AND seen.is_same AND",
                "NOT seen.is_in_ledger AND seen.is_same AND",
            ),
            Patch(SETTLE, "WHEN NOT seen.is_owed THEN 'final'\n", "\n"),
            Patch(
                DOCUMENTED,
                "AND t.platform = 'custompass' AND ($20::boolean OR t.status IN ('submitted', 'processing'))\n    RETURNING",
                "\n    RETURNING",
            ),
            Patch(
                FORK,
                "AND t.platform = 'custompass' AND ($20::boolean OR t.status IS NULL OR t.status NOT IN ('SUCCESS', 'FAILURE'))\n    RETURNING",
                "\n    RETURNING",
            ),
            Patch(
                MAIN,
                "AND t.platform = 'custompass' AND ($20::boolean OR t.status IS NULL OR t.status NOT IN ('SUCCESS', 'FAILURE'))\n    RETURNING",
                "\n    RETURNING",
            ),
        ),
        (f"{_SETTLE}::test_row_that_somebody_else_finished_is_left_alone", _MODEL),
    ),
    Mutation(
        "ledger key removed: what the ledger has is settled again",
        (
            Patch(
                "postgres/migrations/0001_poller.sql",
                "task_pk           bigint PRIMARY KEY,\n    task_id           text NOT NULL,\n    user_id",
                "task_pk           bigint,\n    task_id           text NOT NULL,\n    user_id",
            ),
            Patch(SETTLE, "    ON CONFLICT (task_pk) DO NOTHING\n", ""),
            Patch(
                SETTLE, "WHERE b.task_pk = a.pk\n        LIMIT 1", "WHERE b.task_pk = a.pk AND false\n        LIMIT 1"
            ),
        ),
        (f"{_SETTLE}::test_task_reopened_by_a_whole_row_save_is_restored_and_paid_once", _MODEL),
    ),
    Mutation(
        "reopened task is paid again",
        (
            Patch(
                FORK,
                "    FROM booked AS b\n    WHERE b.refunded <> 0\n    GROUP BY b.user_id\n",
                "    FROM (SELECT j.pk AS task_pk, j.user_id, j.reserved - j.charged AS refunded FROM judged AS j"
                " WHERE j.is_due OR j.is_restored) AS b\n    WHERE b.refunded <> 0\n    GROUP BY b.user_id\n",
            ),
        ),
        (f"{_SETTLE}::test_task_reopened_by_a_whole_row_save_is_restored_and_paid_once", _MODEL),
    ),
    _one(
        "reopened task is not restored",
        SETTLE,
        "seen.is_in_ledger AND seen.is_active AND seen.is_same_in_ledger AND seen.is_same_amount AS is_restored",
        "false AS is_restored",
        f"{_SETTLE}::test_task_reopened_by_a_whole_row_save_is_restored_and_paid_once",
    ),
    Mutation(
        "identity check removed: a row that changed hands is settled",
        (
            Patch(SETTLE, "seen.is_owed AND seen.is_same AND seen.obstacle", "seen.is_owed AND seen.obstacle"),
            Patch(SETTLE, "            WHEN NOT seen.is_same THEN 'moved'\n", ""),
        ),
        (f"{_SETTLE}::test_row_that_changed_hands_is_left_for_the_next_pass",),
    ),
    _one(
        "ledger row of another task with that pk is taken for ours",
        SETTLE,
        "            WHEN seen.is_in_ledger AND NOT seen.is_same_in_ledger THEN 'quarantined'\n",
        "",
        f"{_RACES}::test_another_task_with_the_pk_and_the_amount_of_a_settled_one_is_for_a_person",
    ),
    Mutation(
        "lock removed",
        (Patch(LOCK, "    ORDER BY t.id\n    FOR NO KEY UPDATE OF t\n", "    ORDER BY t.id\n"),),
        (f"{_RACES}::test_amount_that_the_gateway_is_just_changing_is_waited_for",),
    ),
    # -- one transaction
    Mutation(
        "status before refund, in two transactions",
        (
            _NO_PAYMENT,
            *_NO_ROW_COUNT,
            Patch(
                SETTLER,
                '                reach("settle.committed")\n',
                '                reach("settle.committed")\n                ' + _PAY.format(indent=" " * 16),
            ),
        ),
        (f"{_MONEY_CRASHES} -k committed", f"{_CRASH} -k settle.committed"),
    ),
    Mutation(
        "refund before status, in two transactions",
        (
            _NO_PAYMENT,
            *_NO_ROW_COUNT,
            Patch(
                SETTLER,
                "        try:\n            with anyio.fail_after(_DEADLINE_S, shield=True):\n",
                "        "
                + _PAY.format(indent=" " * 8)
                + "        try:\n            with anyio.fail_after(_DEADLINE_S, shield=True):\n",
            ),
        ),
        (f"{_MONEY_CRASHES} -k locked", f"{_FAULTS} -k killed_backends"),
    ),
    Mutation(
        "status alone: the payment is lost and its row count not checked",
        (_NO_PAYMENT, *_NO_ROW_COUNT),
        (f"{_SETTLE}::test_refund_gives_the_rest_back_and_finishes_the_task",),
    ),
    _one(
        "row counts not checked",
        SETTLER,
        'if short := rows[0]["short"]:',
        'if (short := rows[0]["short"]) and not rows:',
        f"{_FAULTS}::test_row_that_refuses_to_change_rolls_its_task_back_alone",
    ),
    # -- unknown outcomes and repeats
    _one(
        "unknown outcome taken for lost",
        "postgres/database.py",
        "is_commit_sent = _is_open(connection)",
        "is_commit_sent = False",
        f"{_POOL} -k unknown",
    ),
    _one(
        "unknown outcome taken for failure: the task goes to a person",
        SETTLER,
        "                if tries >= _WHOLE.tries:\n                    raise\n",
        "                run.refused.extend((one, 'commit_unknown', '') for one in batch)\n                return []\n",
        f"{_FAULTS}::test_commit_of_unknown_outcome_settles_once_and_is_told_once",
    ),
    _one(
        "each try is an attempt of its own: the repeat takes its own commit for another's",
        SETTLER,
        "self._once(run.attempt, batch, patience.lock_s)",
        "self._once(uuid.uuid4(), batch, patience.lock_s)",
        f"{_FAULTS}::test_commit_of_unknown_outcome_settles_once_and_is_told_once",
    ),
    _one(
        "retry on one exception family only",
        "postgres/faults.py",
        "    asyncpg.PostgresError,\n    asyncpg.InterfaceError,\n    asyncpg.InternalClientError,\n    OSError,\n    EOFError,\n    RuntimeError,\n",
        "    asyncpg.PostgresError,\n",
        f"{_FAULTS} -k killed_backends",
        f"{_POOL} -k killed_backend",
    ),
    _one(
        "a lock time-out is taken for bad data",
        "postgres/faults.py",
        '"55P03": Fault.LOCKED',
        '"55P03": Fault.POISON',
        f"{_FAULTS}::test_task_behind_a_held_row_waits_for_the_next_pass_and_its_neighbours_settle",
    ),
    _one(
        "a deadlock is taken for bad data",
        "postgres/faults.py",
        '"40": Fault.RETRY_TX',
        '"40": Fault.POISON',
        f"{_RACES}::test_deadlock_costs_a_task_nothing_of_what_was_to_be_written",
    ),
    _one(
        "halving drops a half",
        SETTLER,
        "        await self._settle(run, batch[middle:], _HALVES)\n",
        "",
        f"{_FAULTS}::test_task_of_a_user_who_is_gone_is_quarantined_and_its_neighbours_settle",
        f"{_FAULTS}::test_refund_that_overflows_an_int4_balance_is_quarantined_and_its_neighbours_settle",
    ),
    _one(
        "a bad task takes its neighbours into quarantine",
        SETTLER,
        "        if len(batch) > 1:\n            await self._halve(run, batch)\n            return\n        (one,) = batch\n",
        "        if len(batch) > 1:\n            run.refused.extend((one, 'odd_data', '') for one in batch)\n            return\n        (one,) = batch\n",
        f"{_FAULTS}::test_refund_that_overflows_an_int4_balance_is_quarantined_and_its_neighbours_settle",
    ),
    # -- amounts
    Mutation(
        "sum per user removed: one of several tasks of a user is paid",
        (
            Patch(
                FORK,
                "SELECT b.user_id, sum(b.refunded)::bigint AS refunded, min(b.task_pk) AS task_pk\n    FROM booked AS b\n"
                "    WHERE b.refunded <> 0\n    GROUP BY b.user_id\n",
                "SELECT b.user_id, b.refunded, b.task_pk\n    FROM booked AS b\n    WHERE b.refunded <> 0\n",
            ),
            Patch(
                FORK,
                "WHEN (SELECT count(*) FROM paid) <> (SELECT count(*) FROM owed) THEN 'user_row'",
                "WHEN false THEN ''",
            ),
        ),
        (f"{_SETTLE}::test_several_tasks_of_one_user_are_all_paid",),
    ),
    Mutation(
        "stale reserved amount: from the page instead of the locked row",
        (
            Patch(
                SETTLE,
                "coalesce(l.reserved, t.quota, 0)::bigint AS reserved",
                "coalesce(l.reserved, a.prompt_tokens, 0)::bigint AS reserved",
            ),
            Patch(COLUMNS, "one.prompt_tokens if _is_amount(one.prompt_tokens) else 0", "one.task.reserved"),
        ),
        (f"{_SETTLE}::test_what_was_reserved_comes_from_the_row_and_not_from_the_page",),
    ),
    _one(
        "charged as reserved, by the page",
        COLUMNS,
        "            one.charged,\n            one.rule,",
        "            one.task.reserved if one.charged is None else one.charged,\n            one.rule,",
        f"{_RACES}::test_as_reserved_means_what_the_row_says_now",
    ),
    _one(
        "charged NULL taken for 0",
        SETTLE,
        "coalesce(l.charged, a.charged, t.quota, 0)",
        "coalesce(l.charged, a.charged, 0)",
        f"{_SETTLE}::test_as_reserved_moves_no_balance_and_is_in_the_ledger",
    ),
    Mutation(
        "supplement dropped",
        (
            Patch(
                DOCUMENTED,
                "WHERE b.refunded <> 0\n    GROUP BY b.user_id",
                "WHERE b.refunded > 0\n    GROUP BY b.user_id",
            ),
            Patch(
                FORK, "WHERE b.refunded <> 0\n    GROUP BY b.user_id", "WHERE b.refunded > 0\n    GROUP BY b.user_id"
            ),
            Patch(
                MAIN, "WHERE b.refunded <> 0\n    GROUP BY b.user_id", "WHERE b.refunded > 0\n    GROUP BY b.user_id"
            ),
        ),
        (f"{_SETTLE}::test_supplement_takes_what_is_missing",),
    ),
    Mutation(
        "refund raises used_quota",
        (
            Patch(DOCUMENTED, "coalesce(u.used_quota, 0) - owed.refunded", "coalesce(u.used_quota, 0) + owed.refunded"),
            Patch(MAIN, "coalesce(u.used_quota, 0) - owed.refunded", "coalesce(u.used_quota, 0) + owed.refunded"),
        ),
        (f"{_SETTLE}::test_refund_gives_the_rest_back_and_finishes_the_task",),
    ),
    _one(
        "refund lowers used_quota where submitting never raised it",
        FORK,
        "SET quota = coalesce(u.quota, 0) + owed.refunded\n",
        "SET quota = coalesce(u.quota, 0) + owed.refunded, used_quota = u.used_quota - owed.refunded\n",
        f"{_PROFILES}::test_fork_moves_the_balance_alone",
    ),
    _one(
        "subscription's refund goes to the wallet as well",
        MAIN,
        "coalesce(sum(b.refunded) FILTER (WHERE b.purse = 'wallet'), 0)::bigint AS wallet",
        "sum(b.refunded)::bigint AS wallet",
        f"{_PROFILES}::test_main_refund_goes_back_to_the_subscription_that_paid",
    ),
    _one(
        "token of somebody else is credited",
        MAIN,
        "k.id > 0 AND k.user_id = t.user_id",
        "k.id > 0",
        f"{_PROFILES}::test_main_token_that_is_no_longer_the_users_keeps_no_money_from_the_user",
    ),
    Mutation(
        "paid to the user of the first task",
        (
            Patch(
                FORK,
                "SELECT b.user_id, sum(b.refunded)::bigint AS refunded, min(b.task_pk) AS task_pk",
                "SELECT (SELECT min(x.user_id) FROM booked AS x) AS user_id, sum(b.refunded)::bigint AS refunded, min(b.task_pk) AS task_pk",
            ),
            Patch(
                FORK,
                "WHEN (SELECT count(*) FROM paid) <> (SELECT count(*) FROM owed) THEN 'user_row'",
                "WHEN false THEN ''",
            ),
        ),
        (f"{_FAULTS} -k two_settlers",),
    ),
    Mutation(
        "a user who is gone is settled without anybody being paid",
        (
            Patch(SETTLE, "            WHEN amount.charged <> amount.reserved AND u.id IS NULL THEN 'user_gone'\n", ""),
            *_NO_ROW_COUNT,
        ),
        (f"{_FAULTS}::test_task_of_a_user_who_is_gone_is_quarantined_and_its_neighbours_settle",),
    ),
    Mutation(
        "negative reservation is refunded",
        (
            Patch(SETTLE, "            WHEN amount.reserved < 0 THEN 'quota_negative'\n", ""),
            Patch("postgres/migrations/0001_poller.sql", "NOT NULL CHECK (reserved >= 0)", "NOT NULL"),
            Patch("postgres/migrations/0001_poller.sql", "NOT NULL CHECK (charged >= 0)", "NOT NULL"),
        ),
        (f"{_FAULTS}::test_negative_reservation_is_quarantined_and_its_neighbours_settle",),
    ),
    Mutation(
        "refund without the gateway's log row",
        (
            Patch(
                SETTLE,
                "    FROM line\n    WHERE NOT $18::boolean\n",
                "    FROM line\n    WHERE $18::boolean AND NOT $18::boolean\n",
            ),
        ),
        (f"{_PROFILES} -k 'log'", f"{_CRASH} -k 'settle.begun and terminate'"),
    ),
    _one(
        "float amounts",
        "core/ratios.py",
        "        result = _EXACT.multiply(result, Decimal(factor))\n",
        "        result = Decimal(float(result) * float(factor))\n",
        _PRICING,
    ),
    _one(
        "banker's rounding",
        "core/ratios.py",
        "amount.to_integral_value(rounding=rounding,",
        'amount.to_integral_value(rounding="ROUND_HALF_EVEN",',
        _PRICING,
    ),
    _one(
        "booleans and fractions pass for amounts",
        COLUMNS,
        "    return type(value) is int and 0 <= value < 2**63\n",
        "    return isinstance(value, int | float) and 0 <= value < 2**63\n",
        f"{_SETTLE}::test_charge_that_is_no_amount_never_reaches_the_database",
    ),
    _one(
        "failure is charged",
        "core/settlements.py",
        "        outcome=Outcome.FAILURE,\n        charged=0,\n        rule=settle.reason,",
        "        outcome=Outcome.FAILURE,\n        charged=task.reserved,\n        rule=settle.reason,",
        "tests/test_batch.py -k failed_word",
    ),
    _one(
        "limit of refunds ignored",
        "batch.py",
        "admitted, waiting = self._refunds.admit(wishes)",
        "admitted, waiting = wishes, []",
        "tests/upstream/test_refund_limit.py",
    ),
    # -- verdicts
    _one(
        "expired without evidence",
        "core/decide.py",
        "            return _KEPT[report.kind.value]\n",
        "            return _expired('nothing', report, policy) if is_past else _KEPT[report.kind.value]\n",
        _DECIDE,
    ),
    _one(
        "unknown word taken for failed",
        "core/decide.py",
        '    return _keep("unknown_word", task)\n\n\ndef has_flipped',
        '    return _settle(Outcome.FAILURE, "failed_word", report)\n\n\ndef has_flipped',
        _DECIDE,
    ),
    _one(
        "absent taken for failed",
        "core/decide.py",
        'if is_past else _keep("absent", task)',
        'if is_past else _settle(Outcome.FAILURE, "failed_word", report)',
        _DECIDE,
    ),
    _one(
        "not_found counts at the first sighting",
        "core/decide.py",
        "if sightings >= policy.not_found_count and age_s >= policy.not_found_grace_s:",
        "if sightings and age_s >= policy.not_found_grace_s:",
        _DECIDE,
    ),
    Mutation(
        "status of a settled task goes back to open",
        tuple(
            Patch(f"postgres/sql/{profile}/advance.sql", old, new)
            for profile in ("fork", "main")
            for old, new in (
                (
                    "WHERE t.platform = 'custompass' AND (t.status IS NULL OR t.status NOT IN ('SUCCESS', 'FAILURE'))\n        AND",
                    "WHERE",
                ),
                (
                    "\n    AND t.platform = 'custompass' AND (t.status IS NULL OR t.status NOT IN ('SUCCESS', 'FAILURE'))\nRETURNING",
                    "\nRETURNING",
                ),
            )
        ),
        ("tests/postgres/test_store.py -k advanced", _MODEL),
    ),
    # -- the house
    _one(
        "a ledger that lost its rows is settled on",
        SETTLER,
        'if not locked["is_ledger_whole"]:',
        "if False:",
        "tests/postgres/test_ledger.py -k paid_again",
    ),
    _one(
        "an old primary is written to after its promotion",
        "postgres/identity.py",
        " or met.timeline < known.timeline",
        "",
        "tests/postgres/test_identity.py -k promotion",
    ),
    _one(
        "another server is written to",
        "postgres/identity.py",
        " or met.system != known.system",
        "",
        "tests/postgres/test_identity.py -k another_server",
    ),
    _one(
        "deadlines by a clock that leapt ahead",
        "core/clock.py",
        "if ahead_s > TOLERANCE_S:",
        "if False:",
        "tests/test_walk.py -k leaps",
    ),
)
