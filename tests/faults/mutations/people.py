"""Bugs of what a person does: ``poller reconcile``, ``poller tasks resolve`` and ``poller tasks requeue``."""

from __future__ import annotations

from tests.faults.mutations.mutation import NO_KEY, SETTLE, Mutation, Patch, one, without

_OWED = "postgres/sql/*/reconcile_owed.sql"
_REFUNDS = "postgres/sql/{}/reconcile_refunds.sql"
_WEIGHING = "core/reconcile.py"
_RECONCILER = "postgres/reconcile.py"

_RECONCILE = "tests/postgres/test_reconcile.py"
_COMMAND = "tests/cli/test_reconcile.py"
_OPERATOR = "tests/cli/test_operator.py"
_CORE = "tests/core/test_reconcile.py"
_ASIDE = "tests/cli/test_set_aside.py"


def _each(documented: tuple[str, str], others: tuple[str, str]) -> tuple[Patch, ...]:
    """The same bug of ``reconcile_owed`` in the words of each profile."""
    return tuple(
        Patch(f"postgres/sql/{profile}/reconcile_owed.sql", *words)
        for profile, words in (("documented", documented), ("fork", others), ("main", others))
    )


MUTATIONS: tuple[Mutation, ...] = (
    # -- reconcile pays once
    Mutation(
        "reconcile does without the ledger's key: run twice it pays twice",
        (*NO_KEY, Patch(SETTLE, "WHERE b.task_pk = kept.pk", "WHERE b.task_pk = kept.pk AND NOT $20::boolean")),
        (f"{_RECONCILE} -k 'run_twice_and_at_once or daemon_settled_meanwhile'",),
    ),
    one(
        "reconcile finds what the ledger has",
        _OWED,
        "AND NOT EXISTS (SELECT FROM poller.ledger AS l WHERE l.task_pk = t.id)",
        "AND true",
        f"{_RECONCILE}::test_what_the_daemon_settled_is_never_owed_again",
    ),
    Mutation(
        "reconcile pays what the daemon has settled",
        (
            *NO_KEY,
            Patch(_OWED, "AND NOT EXISTS (SELECT FROM poller.ledger AS l WHERE l.task_pk = t.id)", "AND true"),
            Patch(SETTLE, "WHERE b.task_pk = kept.pk", "WHERE b.task_pk = kept.pk AND NOT $20::boolean"),
        ),
        (f"{_RECONCILE}::test_what_the_daemon_settled_is_never_owed_again",),
    ),
    Mutation(
        "reconcile settles what is still open",
        (
            Patch(
                "postgres/sql/fork/settle.sql",
                "coalesce(t.status = 'FAILURE' AND t.quota > 0, false)\n",
                "coalesce(t.quota > 0, false)\n",
            ),
            Patch(
                "postgres/sql/documented/settle.sql",
                "coalesce(t.status = CASE a.outcome WHEN 'SUCCESS' THEN 'completed' ELSE 'failed' END, false)\n",
                "true\n",
            ),
        ),
        (f"{_RECONCILE}::test_a_row_that_changed_since_it_was_read_is_not_paid",),
    ),
    Mutation(
        "reconcile does not wait for whoever finished a task just now",
        _each(
            ("interval '10 minutes' THEN 'young'", "interval '0 minutes' THEN 'young'"),
            ("- 600 THEN 'young'", "- 0 THEN 'young'"),
        ),
        (f"{_RECONCILE}::test_whoever_finished_a_task_just_now_is_given_time_to_refund_it",),
    ),
    Mutation(
        "repair does not wait for whoever finished a task since it was read",
        (
            Patch("postgres/sql/documented/settle.sql", "t.updated_at <= now() - interval '10 minutes'", "true"),
            *(
                Patch(
                    f"postgres/sql/{profile}/settle.sql",
                    "greatest(t.updated_at, t.finish_time) <= extract(epoch FROM now()) - 600",
                    "true",
                )
                for profile in ("fork", "main")
            ),
        ),
        (f"{_RECONCILE}::test_whoever_finished_a_task_just_now_is_given_time_to_refund_it",),
    ),
    # -- reconcile pays nothing on a doubt
    one(
        "ambiguous is given back too",
        _RECONCILER,
        "if each.kind is Class.OWED and each.candidate",
        "if each.candidate",
        f"{_RECONCILE}::test_one_refund_for_two_tasks_that_look_alike_is_for_a_person",
    ),
    one(
        "a task whose refund may be another's is owed",
        _WEIGHING,
        'return _finding(Class.AMBIGUOUS, task, owed, f"{rows}',
        'return _finding(Class.OWED, task, owed, f"{rows}',
        f"{_RECONCILE}::test_one_refund_for_two_tasks_that_look_alike_is_for_a_person",
    ),
    one(
        "what the logs cannot tell of is owed",
        _WEIGHING,
        'if task.doubt == "used" or (task.doubt and not self._refunds):',
        'if task.doubt == "used":',
        f"{_RECONCILE}::test_what_the_logs_cannot_tell_of_is_owed_only_when_a_person_says_so",
    ),
    one(
        "failed task that used something is owed",
        _WEIGHING,
        'if task.doubt == "used" or (task.doubt and not self._refunds):',
        'if task.doubt and task.doubt != "used" and not self._refunds:',
        f"{_RECONCILE}::test_a_completed_task_of_the_guide_gets_back_what_it_did_not_use_when_a_person_says_so",
    ),
    one(
        "reconcile pays without --apply",
        "cli/reconcile.py",
        "reconciler if is_applied else None",
        "reconciler",
        f"{_COMMAND}::test_what_is_owed_is_listed_then_given_back_and_then_gone[documented]",
    ),
    one(
        "reconcile is sure without --yes",
        "cli/reconcile.py",
        "is_sure=is_sure)",
        "is_sure=True)",
        f"{_COMMAND} -k 'cannot_tell_of and documented and TRUNCATE'",
    ),
    # -- whose refund a log row is
    one(
        "refund of another user counts",
        _WEIGHING,
        "if place[:2] != self._group:",
        "if self._group is None or place[1] != self._group[1]:",
        f"{_CORE}::test_groups_do_not_mix",
    ),
    one(
        "refund of another amount counts",
        _WEIGHING,
        "if place[:2] != self._group:",
        "if self._group is None or place[0] != self._group[0]:",
        f"{_RECONCILE}::test_a_task_that_ended_before_this_daemon_and_was_never_refunded_is_owed",
    ),
    one(
        "line of the log that is no refund counts as one",
        _REFUNDS.format("documented"),
        "WHERE l.type = 'refund' AND",
        "WHERE",
        f"{_RECONCILE}::test_a_log_row_that_is_no_refund_explains_nothing",
    ),
    Mutation(
        "line of the log that is no refund counts as one, in main",
        (
            Patch(_REFUNDS.format("main"), "WHERE l.type IN (4, 6) AND", "WHERE"),
            Patch(_REFUNDS.format("main"), "CASE l.type\n            WHEN 6 THEN", "CASE\n            WHEN true THEN"),
        ),
        (f"{_RECONCILE}::test_a_log_row_that_is_no_refund_explains_nothing",),
    ),
    Mutation(
        "refund of ours explains another task",
        (without(_WEIGHING, "            self._refunds -= 1\n"),),
        (f"{_RECONCILE}::test_a_refund_of_ours_explains_no_other_task",),
    ),
    Mutation(
        "refund by a clock that is slow is overlooked",
        _each(
            ("extract(epoch FROM t.created_at - interval '1 day')", "extract(epoch FROM t.created_at)"),
            ("(submitted.at_s - 86400) * 1000000 AS at_us", "submitted.at_s * 1000000 AS at_us"),
        ),
        (f"{_RECONCILE}::test_a_refund_by_a_clock_that_is_slow_is_still_its_own",),
    ),
    one(
        "with --since, a refund by a clock that is slow is overlooked",
        _RECONCILER,
        "max(since_s, span.oldest_s) - _CLOCKS_S",
        "max(since_s, span.oldest_s)",
        f"{_RECONCILE}::test_a_refund_by_a_clock_that_is_slow_is_still_its_own",
    ),
    Mutation(
        "time that is no time is taken for one: its refund seems to come before it",
        _each(
            ("WHEN t.created_at BETWEEN to_timestamp(0) AND now() + interval '1 day'", "WHEN t.created_at IS NOT NULL"),
            ("THEN told.at_s ELSE 0 END AS at_s", "THEN told.at_s ELSE told.at_s END AS at_s"),
        ),
        (f"{_RECONCILE}::test_a_task_whose_time_is_no_time_is_refunded_whenever_that_was",),
    ),
    Mutation(
        "tasks of other platforms are owed",
        _each(
            ("WHERE t.platform = 'custompass' AND t.status IN", "WHERE t.status IN"),
            ("WHERE t.platform = 'custompass' AND t.status = 'FAILURE'", "WHERE t.status = 'FAILURE'"),
        ),
        (f"{_RECONCILE}::test_open_tasks_free_ones_and_those_of_others_are_no_candidates",),
    ),
    one(
        "repairs are logged beside the tasks though the logs are elsewhere",
        _RECONCILER,
        "logs_elsewhere=logs_of is not None",
        "logs_elsewhere=False",
        f"{_RECONCILE}::test_with_logs_elsewhere_refunds_are_read_there_and_repairs_are_logged_there",
    ),
    # -- by hand
    Mutation(
        "refund by hand does without the ledger: given twice it pays twice",
        (
            *NO_KEY,
            Patch(SETTLE, "WHERE b.task_pk = kept.pk", "WHERE b.task_pk = kept.pk AND a.rule <> 'operator'"),
        ),
        (f"{_OPERATOR}::test_resolve_of_a_task_that_was_opened_again_pays_nothing",),
    ),
    Mutation(
        "refund by hand of a task that somebody finished meanwhile",
        (
            Patch(
                SETTLE,
                "NOT seen.is_in_ledger AND seen.is_owed AND",
                "NOT seen.is_in_ledger AND (seen.is_owed OR seen.rule = 'operator') AND",
            ),
            Patch(
                SETTLE,
                "WHEN NOT seen.is_owed THEN 'final'",
                "WHEN NOT seen.is_owed AND seen.rule <> 'operator' THEN 'final'",
            ),
            Patch(SETTLE, "($20::boolean OR t.status", "($20::boolean OR j.rule = 'operator' OR t.status"),
        ),
        (f"{_OPERATOR}::test_resolve_of_a_task_that_the_daemon_settles_meanwhile_moves_nothing",),
    ),
    Mutation(
        "refund by hand of what the daemon settled meanwhile",
        (
            *NO_KEY,
            Patch(
                SETTLE,
                "NOT seen.is_in_ledger AND seen.is_owed AND",
                "(NOT seen.is_in_ledger AND seen.is_owed OR seen.rule = 'operator') AND",
            ),
            Patch(SETTLE, "WHERE b.task_pk = kept.pk", "WHERE b.task_pk = kept.pk AND a.rule <> 'operator'"),
            Patch(
                SETTLE,
                "WHEN NOT seen.is_owed THEN 'final'",
                "WHEN NOT seen.is_owed AND seen.rule <> 'operator' THEN 'final'",
            ),
            Patch(SETTLE, "($20::boolean OR t.status", "($20::boolean OR j.rule = 'operator' OR t.status"),
        ),
        (f"{_OPERATOR}::test_resolve_of_a_task_that_a_lane_settles_meanwhile_pays_it_once",),
    ),
    one(
        "refund by hand keeps what was reserved",
        "cli/tasks.py",
        "wanted = None if as_reserved else (0 if refund else charge)",
        "wanted = None if as_reserved or refund else charge",
        f"{_OPERATOR}::test_resolve_settles_through_the_ledger_and_is_on_record",
    ),
    one(
        "charge by hand is what goes back",
        "cli/tasks.py",
        "        settlement = Settlement(\n            seen.task,\n            outcome,\n            charged,\n",
        "        settlement = Settlement(\n            seen.task,\n            outcome,\n            charged and seen.task.reserved - charged,\n",
        f"{_OPERATOR}::test_resolve_settles_through_the_ledger_and_is_on_record",
    ),
    Mutation(
        "requeue starts a task anew, its settlement included",
        (
            Patch(
                "postgres/sql/own/requeue.sql",
                "noted AS (\n",
                "anew AS (\n    DELETE FROM poller.ledger AS l USING done WHERE l.task_pk = done.task_pk\n),\nnoted AS (\n",
            ),
        ),
        (f"{_OPERATOR}::test_requeue_of_a_settled_task_lets_nothing_be_paid_again",),
    ),
    # -- settlements set aside
    one(
        "settlement of the task itself is set aside",
        "postgres/sql/*/set_aside.sql",
        "WHEN o.task_pk IS NOT NULL OR l.task_id = coalesce(t.task_id, '') THEN 'own'",
        "WHEN o.task_pk IS NOT NULL THEN 'own'",
        f"{_ASIDE} -k within_its_second",
    ),
)
