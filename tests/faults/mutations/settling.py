"""Bugs of the one transaction: the guard, the ledger's key, and what is done when its outcome is unknown."""

from __future__ import annotations

from tests.faults.mutations.mutation import NO_KEY, NO_USER_ROW_COUNT, SETTLE, SETTLER, Mutation, Patch, one, without

_LOCK = "postgres/sql/*/lock.sql"
_DOCUMENTED = "postgres/sql/documented/settle.sql"
_FORK = "postgres/sql/fork/settle.sql"
_MAIN = "postgres/sql/main/settle.sql"

_TESTS = "tests/postgres/test_settle.py"
_FAULTS = "tests/postgres/test_settle_faults.py"
_POOL = "tests/postgres/test_pool.py"
_CRASH = "tests/faults/test_crash_points.py"
_MODEL = "tests/faults/test_model.py"
_RACES = "tests/postgres/test_settle_races.py"
_MONEY_CRASHES = f"{_CRASH}::test_settlement_that_is_interrupted_is_whole_or_not_at_all"

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
                _DOCUMENTED,
                "AND t.platform = 'custompass' AND ($20::boolean OR t.status IN ('submitted', 'processing'))\n    RETURNING",
                "\n    RETURNING",
            ),
            Patch(
                _FORK,
                "AND t.platform = 'custompass' AND ($20::boolean OR t.status IS NULL OR t.status NOT IN ('SUCCESS', 'FAILURE'))\n    RETURNING",
                "\n    RETURNING",
            ),
            Patch(
                _MAIN,
                "AND t.platform = 'custompass' AND ($20::boolean OR t.status IS NULL OR t.status NOT IN ('SUCCESS', 'FAILURE'))\n    RETURNING",
                "\n    RETURNING",
            ),
        ),
        (f"{_TESTS}::test_row_that_somebody_else_finished_is_left_alone", _MODEL),
    ),
    Mutation(
        "ledger key removed: what the ledger has is settled again",
        (
            *NO_KEY,
            Patch(
                SETTLE,
                "WHERE b.task_pk = kept.pk\n        LIMIT 1",
                "WHERE b.task_pk = kept.pk AND false\n        LIMIT 1",
            ),
        ),
        (f"{_TESTS}::test_task_reopened_by_a_whole_row_save_is_restored_and_paid_once", _MODEL),
    ),
    Mutation(
        "reopened task is paid again",
        (
            Patch(
                _FORK,
                "    FROM booked AS b\n    WHERE b.refunded <> 0\n    GROUP BY b.user_id\n",
                "    FROM (SELECT j.pk AS task_pk, j.user_id, j.reserved - j.charged AS refunded FROM judged AS j"
                " WHERE j.is_due OR j.is_restored) AS b\n    WHERE b.refunded <> 0\n    GROUP BY b.user_id\n",
            ),
        ),
        (f"{_TESTS}::test_task_reopened_by_a_whole_row_save_is_restored_and_paid_once", _MODEL),
    ),
    one(
        "reopened task is not restored",
        SETTLE,
        "seen.is_in_ledger AND seen.is_active AND seen.is_same_in_ledger AND seen.is_same_amount AS is_restored",
        "false AS is_restored",
        f"{_TESTS}::test_task_reopened_by_a_whole_row_save_is_restored_and_paid_once",
    ),
    Mutation(
        "identity check removed: a row that changed hands is settled",
        (
            Patch(SETTLE, "seen.is_owed AND seen.is_same AND seen.obstacle", "seen.is_owed AND seen.obstacle"),
            Patch(SETTLE, "            WHEN NOT seen.is_same THEN 'moved'\n", ""),
        ),
        (f"{_TESTS}::test_row_that_changed_hands_is_left_for_the_next_pass",),
    ),
    one(
        "ledger row of another task with that pk is taken for ours",
        SETTLE,
        "            WHEN seen.is_in_ledger AND NOT seen.is_same_in_ledger THEN 'quarantined'\n",
        "",
        f"{_RACES}::test_another_task_with_the_pk_and_the_amount_of_a_settled_one_is_for_a_person",
    ),
    Mutation(
        "lock removed",
        (Patch(_LOCK, "    ORDER BY t.id\n    FOR NO KEY UPDATE OF t\n", "    ORDER BY t.id\n"),),
        (f"{_RACES}::test_amount_that_the_gateway_is_just_changing_is_waited_for",),
    ),
    Mutation(
        "replica that lost its lease settles by what it read: neither status nor ledger stops it",
        (
            *NO_KEY,
            Patch(SETTLE, "WHERE b.task_pk = kept.pk", "WHERE b.task_pk = kept.pk AND false"),
            Patch(SETTLE, "NOT seen.is_in_ledger AND seen.is_owed AND", "seen.is_there AND"),
            without(SETTLE, "            WHEN NOT seen.is_owed THEN 'final'\n"),
            Patch(SETTLE, "($20::boolean OR t.status", "(true OR $20::boolean OR t.status"),
        ),
        (f"{_RACES}::test_who_loses_the_race_for_a_task_is_told_that_it_was_settled",),
    ),
    Mutation(
        "reopened row of the same amount is taken for a new task",
        (
            *NO_KEY,
            Patch(
                SETTLE,
                "NOT seen.is_in_ledger AND seen.is_owed AND",
                "(NOT seen.is_in_ledger OR seen.is_same_amount) AND seen.is_owed AND",
            ),
        ),
        (f"{_TESTS}::test_task_reopened_by_a_whole_row_save_is_restored_and_paid_once",),
    ),
    Mutation(
        "reopened row of another amount is closed: what was charged anew is kept",
        (
            without(
                SETTLE,
                "            WHEN seen.is_in_ledger AND seen.is_active AND NOT seen.is_same_amount THEN 'quarantined'\n",
            ),
            Patch(SETTLE, "seen.is_same_in_ledger AND seen.is_same_amount AS", "seen.is_same_in_ledger AS"),
        ),
        ("tests/postgres/test_settle_odd_rows.py -k another_amount",),
    ),
    Mutation(
        "task of another platform is refunded",
        (
            Patch(SETTLE, "ON t.id = a.pk AND t.platform = 'custompass'", "ON t.id = a.pk"),
            Patch(SETTLE, "AND t.platform = 'custompass' AND ($20", "AND ($20"),
        ),
        (f"{_TESTS}::test_row_that_is_gone_or_of_another_platform_moves_nothing",),
    ),
    one(
        "row that is another task's by now is settled",
        SETTLE,
        "coalesce(t.task_id, '') = a.task_id\n            AND",
        "",
        f"{_TESTS} -k changed_hands",
    ),
    one(
        "row that is another user's by now is settled",
        SETTLE,
        "AND coalesce(t.user_id, 0) = a.user_id\n",
        "\n",
        f"{_TESTS} -k changed_hands",
    ),
    one(
        "row that is another channel's by now is settled",
        SETTLE,
        "AND coalesce(t.channel_id, 0) = a.channel_id AS is_same",
        "AS is_same",
        f"{_TESTS} -k changed_hands",
    ),
    # -- one transaction
    Mutation(
        "status before refund, in two transactions",
        (
            _NO_PAYMENT,
            NO_USER_ROW_COUNT,
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
            NO_USER_ROW_COUNT,
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
        (_NO_PAYMENT, NO_USER_ROW_COUNT),
        (f"{_TESTS}::test_refund_gives_the_rest_back_and_finishes_the_task",),
    ),
    one(
        "row counts not checked",
        SETTLER,
        'if short := rows[0]["short"]:',
        'if (short := rows[0]["short"]) and not rows:',
        f"{_FAULTS}::test_row_that_refuses_to_change_rolls_its_task_back_alone",
    ),
    # -- unknown outcomes and repeats
    one(
        "unknown outcome taken for lost",
        "postgres/database.py",
        "is_commit_sent = _is_open(connection)",
        "is_commit_sent = False",
        f"{_POOL} -k unknown",
    ),
    one(
        "unknown outcome taken for failure: the task goes to a person",
        SETTLER,
        "                if tries >= _WHOLE.tries:\n                    raise\n",
        "                run.refused.extend((one, 'commit_unknown', '') for one in batch)\n                return []\n",
        f"{_FAULTS}::test_commit_of_unknown_outcome_settles_once_and_is_told_once",
    ),
    one(
        "each try is an attempt of its own: the repeat takes its own commit for another's",
        SETTLER,
        "self._once(run.attempt, batch, patience.lock_s)",
        "self._once(uuid.uuid4(), batch, patience.lock_s)",
        f"{_FAULTS}::test_commit_of_unknown_outcome_settles_once_and_is_told_once",
    ),
    one(
        "retry on one exception family only",
        "postgres/faults.py",
        "    asyncpg.PostgresError,\n    asyncpg.InterfaceError,\n    asyncpg.InternalClientError,\n    OSError,\n    EOFError,\n    RuntimeError,\n",
        "    asyncpg.PostgresError,\n",
        f"{_FAULTS} -k killed_backends",
        f"{_POOL} -k killed_backend",
    ),
    one(
        "a lock time-out is taken for bad data",
        "postgres/faults.py",
        '"55P03": Fault.LOCKED',
        '"55P03": Fault.POISON',
        f"{_FAULTS}::test_task_behind_a_held_row_waits_for_the_next_pass_and_its_neighbours_settle",
    ),
    one(
        "a deadlock is taken for bad data",
        "postgres/faults.py",
        '"40": Fault.RETRY_TX',
        '"40": Fault.POISON',
        f"{_RACES}::test_deadlock_costs_a_task_nothing_of_what_was_to_be_written",
    ),
    one(
        "halving drops a half",
        SETTLER,
        "        await self._settle(run, batch[middle:], _HALVES)\n",
        "",
        f"{_FAULTS}::test_task_of_a_user_who_is_gone_is_quarantined_and_its_neighbours_settle",
        f"{_FAULTS}::test_refund_that_overflows_an_int4_balance_is_quarantined_and_its_neighbours_settle",
    ),
    one(
        "a bad task takes its neighbours into quarantine",
        SETTLER,
        "        if len(batch) > 1:\n            await self._halve(run, batch)\n            return\n        (one,) = batch\n",
        "        if len(batch) > 1:\n            run.refused.extend((one, 'odd_data', '') for one in batch)\n            return\n        (one,) = batch\n",
        f"{_FAULTS}::test_refund_that_overflows_an_int4_balance_is_quarantined_and_its_neighbours_settle",
    ),
)
