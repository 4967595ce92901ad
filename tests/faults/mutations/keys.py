"""Bugs of setting former settlements aside, and of the home of schema ``poller``."""

from __future__ import annotations

from tests.faults.mutations.mutation import SETTLE, Mutation, Patch

_ASIDE = "postgres/sql/*/set_aside.sql"
_TESTS = "tests/cli/test_set_aside.py"
_HOME = "tests/postgres/test_home.py"

MUTATIONS: tuple[Mutation, ...] = (
    Mutation(
        "settlement that was set aside is forgotten: its task comes back and is paid again",
        (Patch(SETTLE, "SELECT coalesce(min(o.task_pk), a.pk) AS pk", "SELECT a.pk AS pk"),),
        (f"{_TESTS}::test_a_task_that_comes_back_from_a_backup_is_not_paid_again_though_its_settlement_was_set_aside",),
    ),
    Mutation(
        "ledger row of the task itself is set aside, where its user is another now",
        (
            Patch(
                _ASIDE,
                "OR l.task_id = coalesce(t.task_id, '') THEN 'own'",
                "OR (l.task_id, l.user_id) = (coalesce(t.task_id, ''), coalesce(t.user_id, 0)) THEN 'own'",
            ),
        ),
        (f"{_TESTS}::test_the_ledger_row_of_the_task_itself_is_never_set_aside",),
    ),
    Mutation(
        "ledger row is set aside for a task that is older than it",
        (Patch(_ASIDE, "THEN 'older'", "THEN 'set_aside'"),),
        (f"{_TESTS}::test_the_ledger_row_of_the_task_itself_is_never_set_aside",),
    ),
    Mutation(
        "row that was set aside loses the key that it had",
        (Patch(_ASIDE, ", set_aside_of = l.task_pk", ""),),
        (_TESTS,),
    ),
    Mutation(
        "settling does not look whose tasks it has before it",
        (Patch("postgres/settle.py", 'if locked["other_home"]:', "if False:"),),
        (f"{_HOME}::test_a_session_whose_search_path_was_changed_settles_nothing",),
    ),
)
