"""Bugs about whose a row is: former settlements and notes under a reused key, rows of an upgraded fork, two homes."""

from __future__ import annotations

from tests.faults.mutations.mutation import SETTLE, Mutation, Patch

_ASIDE = "postgres/sql/*/set_aside.sql"
_TESTS = "tests/cli/test_set_aside.py"
_HOME = "tests/postgres/test_home.py"
_NOTES = "tests/postgres/test_store.py"

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
        "task is held, or failed on one not_found, for what was noted of a former one with its key",
        (Patch("postgres/store.py", 'if note.task_id not in (None, row["task_id"]):', "if False:"),),
        (f"{_NOTES}::test_notes_about_a_former_task_say_nothing_of_the_one_that_has_its_key",),
    ),
    Mutation(
        "new sighting counts beside those of a former task with the same key",
        (
            Patch(
                "postgres/sql/own/remember_keys.sql",
                "sightings = CASE WHEN w.task_id <> excluded.task_id THEN 0 ELSE w.sightings END",
                "sightings = w.sightings",
            ),
        ),
        (f"{_NOTES}::test_a_new_note_takes_the_place_of_one_about_a_former_task",),
    ),
    Mutation(
        "task that the fork charged is priced by the rules of current new-api",
        (Patch("core/pricing.py", 'self.profile == "fork" or task.is_forks', 'self.profile == "fork"'),),
        (
            "tests/core/test_pricing.py"
            "::test_main_charges_a_task_of_the_fork_that_it_was_upgraded_from_as_the_fork_would",
        ),
    ),
    Mutation(
        "task that the fork charged moves counters that the fork never moved",
        (Patch("postgres/sql/main/settle.sql", "WHEN t.private_data IS NULL THEN", "WHEN false THEN"),),
        (
            "tests/postgres/test_settle_profiles.py"
            "::test_main_settles_a_task_of_the_fork_without_the_counters_that_the_fork_never_moved",
        ),
    ),
    Mutation(
        "settling does not look whose tasks it has before it",
        (Patch("postgres/settle.py", 'if locked["other_home"]:', "if False:"),),
        (f"{_HOME}::test_a_session_whose_search_path_was_changed_settles_nothing",),
    ),
)
