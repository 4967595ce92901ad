"""Bugs of how much moves, and to whom."""

from __future__ import annotations

from tests.faults.mutations.mutation import NO_USER_ROW_COUNT, SETTLE, SETTLER, Mutation, Patch, one

_DOCUMENTED = "postgres/sql/documented/settle.sql"
_FORK = "postgres/sql/fork/settle.sql"
_MAIN = "postgres/sql/main/settle.sql"
_COLUMNS = "postgres/columns.py"

_TESTS = "tests/postgres/test_settle.py"
_PROFILES = "tests/postgres/test_settle_profiles.py"
_FAULTS = "tests/postgres/test_settle_faults.py"
_PRICING = "tests/core/test_pricing.py"
_CRASH = "tests/faults/test_crash_points.py"
_RACES = "tests/postgres/test_settle_races.py"

MUTATIONS: tuple[Mutation, ...] = (
    Mutation(
        "sum per user removed: one of several tasks of a user is paid",
        (
            Patch(
                _FORK,
                "SELECT b.user_id, sum(b.refunded)::bigint AS refunded, min(b.task_pk) AS task_pk\n    FROM booked AS b\n"
                "    WHERE b.refunded <> 0\n    GROUP BY b.user_id\n",
                "SELECT b.user_id, b.refunded, b.task_pk\n    FROM booked AS b\n    WHERE b.refunded <> 0\n",
            ),
            Patch(
                _FORK,
                "WHEN (SELECT count(*) FROM paid) <> (SELECT count(*) FROM owed) THEN 'user_row'",
                "WHEN false THEN ''",
            ),
        ),
        (f"{_TESTS}::test_several_tasks_of_one_user_are_all_paid",),
    ),
    Mutation(
        "stale reserved amount: from the page instead of the locked row",
        (
            Patch(
                SETTLE,
                "coalesce(l.reserved, t.quota, 0)::bigint AS reserved",
                "coalesce(l.reserved, a.prompt_tokens, 0)::bigint AS reserved",
            ),
            Patch(_COLUMNS, "one.prompt_tokens if _is_amount(one.prompt_tokens) else 0", "one.task.reserved"),
        ),
        (f"{_TESTS}::test_what_was_reserved_comes_from_the_row_and_not_from_the_page",),
    ),
    one(
        "charged as reserved, by the page",
        _COLUMNS,
        "            one.charged,\n            one.rule,",
        "            one.task.reserved if one.charged is None else one.charged,\n            one.rule,",
        f"{_RACES}::test_as_reserved_means_what_the_row_says_now",
    ),
    one(
        "charged NULL taken for 0",
        SETTLE,
        "coalesce(l.charged, a.charged, t.quota, 0)",
        "coalesce(l.charged, a.charged, 0)",
        f"{_TESTS}::test_as_reserved_moves_no_balance_and_is_in_the_ledger",
    ),
    Mutation(
        "supplement dropped",
        (
            Patch(
                _DOCUMENTED,
                "WHERE b.refunded <> 0\n    GROUP BY b.user_id",
                "WHERE b.refunded > 0\n    GROUP BY b.user_id",
            ),
            Patch(
                _FORK, "WHERE b.refunded <> 0\n    GROUP BY b.user_id", "WHERE b.refunded > 0\n    GROUP BY b.user_id"
            ),
            Patch(
                _MAIN, "WHERE b.refunded <> 0\n    GROUP BY b.user_id", "WHERE b.refunded > 0\n    GROUP BY b.user_id"
            ),
        ),
        (f"{_TESTS}::test_supplement_takes_what_is_missing",),
    ),
    Mutation(
        "refund raises used_quota",
        (
            Patch(
                _DOCUMENTED, "coalesce(u.used_quota, 0) - owed.refunded", "coalesce(u.used_quota, 0) + owed.refunded"
            ),
            Patch(_MAIN, "coalesce(u.used_quota, 0) - owed.mirrored", "coalesce(u.used_quota, 0) + owed.mirrored"),
        ),
        (f"{_TESTS}::test_refund_gives_the_rest_back_and_finishes_the_task",),
    ),
    one(
        "refund lowers used_quota where submitting never raised it",
        _FORK,
        "SET quota = coalesce(u.quota, 0) + owed.refunded\n",
        "SET quota = coalesce(u.quota, 0) + owed.refunded, used_quota = u.used_quota - owed.refunded\n",
        f"{_PROFILES}::test_fork_moves_the_balance_alone",
    ),
    one(
        "subscription's refund goes to the wallet as well",
        _MAIN,
        "coalesce(sum(b.refunded) FILTER (WHERE b.purse = 'wallet'), 0)::bigint AS wallet",
        "sum(b.refunded)::bigint AS wallet",
        f"{_PROFILES}::test_main_refund_goes_back_to_the_subscription_that_paid",
    ),
    one(
        "token of somebody else is credited",
        _MAIN,
        "k.id > 0 AND k.user_id = t.user_id",
        "k.id > 0",
        f"{_PROFILES}::test_main_token_that_is_no_longer_the_users_keeps_no_money_from_the_user",
    ),
    Mutation(
        "paid to the user of the first task",
        (
            Patch(
                _FORK,
                "SELECT b.user_id, sum(b.refunded)::bigint AS refunded, min(b.task_pk) AS task_pk",
                "SELECT (SELECT min(x.user_id) FROM booked AS x) AS user_id, sum(b.refunded)::bigint AS refunded, min(b.task_pk) AS task_pk",
            ),
            Patch(
                _FORK,
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
            NO_USER_ROW_COUNT,
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
    one(
        "float amounts",
        "core/ratios.py",
        "        result = _EXACT.multiply(result, Decimal(factor))\n",
        "        result = Decimal(float(result) * float(factor))\n",
        _PRICING,
    ),
    one(
        "banker's rounding",
        "core/ratios.py",
        "amount.to_integral_value(rounding=rounding,",
        'amount.to_integral_value(rounding="ROUND_HALF_EVEN",',
        _PRICING,
    ),
    one(
        "booleans and fractions pass for amounts",
        _COLUMNS,
        "    return type(value) is int and 0 <= value < 2**63\n",
        "    return isinstance(value, int | float) and 0 <= value < 2**63\n",
        f"{_TESTS}::test_charge_that_is_no_amount_never_reaches_the_database",
    ),
    one(
        "failure is charged",
        "core/settlements.py",
        "        outcome=Outcome.FAILURE,\n        charged=0,\n        rule=settle.reason,",
        "        outcome=Outcome.FAILURE,\n        charged=task.reserved,\n        rule=settle.reason,",
        "tests/test_batch.py -k failed_word",
    ),
    # -- purses and mirrors
    one(
        "subscription of somebody else is credited",
        _MAIN,
        "ON s.id = purse.subscription_id AND s.user_id = t.user_id",
        "ON s.id = purse.subscription_id",
        f"{_PROFILES}::test_main_subscription_of_somebody_else_gets_nothing",
    ),
    one(
        "tokens that several tasks were paid by get one of the refunds",
        _MAIN,
        "SELECT b.token_id, sum(b.refunded)::bigint AS refunded, min(b.task_pk) AS task_pk\n",
        "SELECT b.token_id, max(b.refunded)::bigint AS refunded, min(b.task_pk) AS task_pk\n",
        f"{_PROFILES}::test_main_refunds_of_one_token_and_channel_are_summed",
    ),
    one(
        "channel is lowered by one of its refunds",
        _MAIN,
        "SELECT b.channel_id, sum(b.refunded)::bigint AS refunded\n",
        "SELECT b.channel_id, max(b.refunded)::bigint AS refunded\n",
        f"{_PROFILES}::test_main_refunds_of_one_token_and_channel_are_summed",
    ),
    one(
        "subscription that is overdrawn pays all the same",
        _MAIN,
        "AND s.amount_used + (amount.charged - amount.reserved) > s.amount_total",
        "AND false",
        f"{_PROFILES} -k overdraw",
    ),
    one(
        "channel of the fork is lowered though nobody said so",
        _FORK,
        "b.refunded <> 0 AND $17::boolean\n",
        "b.refunded <> 0 AND $17::boolean IS NOT NULL\n",
        f"{_PROFILES}::test_fork_moves_the_balance_alone",
    ),
    one(
        "by the rules of a gateway that was replaced: what a subscription paid goes to the wallet",
        SETTLER,
        'if not locked["is_of_profile"]:',
        "if False:",
        f"{_PROFILES} -k replaced_meanwhile",
    ),
    one(
        "absurd usage is charged",
        "batch.py",
        "if priced.charged is None or is_plausible(priced.charged, task.reserved):",
        "if priced is not None:",
        "tests/test_batch.py -k no_gateway_would_charge",
    ),
    Mutation(
        "expired task is charged as reserved",
        (
            Patch(
                "core/settlements.py",
                '        charged=0,\n        rule="expired",',
                '        charged=None,\n        rule="expired",',
            ),
        ),
        ("tests/upstream/test_refund_limit.py -k expired", f"{_TESTS} -k expired"),
    ),
)
