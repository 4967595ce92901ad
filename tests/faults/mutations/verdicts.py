"""Bugs of what is taken for a verdict, and about which task."""

from __future__ import annotations

from tests.faults.mutations.mutation import SETTLE, Mutation, Patch, one

_LAW = "core/decide.py"
_BATCH = "batch.py"
_INQUIRY = "inquiry.py"
_WIRE = "upstream/wire.py"
_LIMIT = "core/refunds.py"

_DECIDE = "tests/core/test_decide.py"
_MODEL = "tests/faults/test_model.py"
_BENCH = "tests/test_batch.py"
_WALK = "tests/test_walk.py"
_BYTES = "tests/upstream/test_wire.py"
_KEYS = "tests/upstream/test_keys_at_work.py"
_LIMITED = "tests/upstream/test_refund_limit.py"

MUTATIONS: tuple[Mutation, ...] = (
    one(
        "expired without evidence",
        _LAW,
        "            return _KEPT[report.kind.value]\n",
        "            return _expired('nothing', report, policy) if is_past else _KEPT[report.kind.value]\n",
        _DECIDE,
    ),
    one(
        "unknown word taken for failed",
        _LAW,
        '    return _keep("unknown_word", task)\n\n\ndef has_flipped',
        '    return _settle(Outcome.FAILURE, "failed_word", report)\n\n\ndef has_flipped',
        _DECIDE,
    ),
    one(
        "absent taken for failed",
        _LAW,
        'if is_past else _keep("absent", task)',
        'if is_past else _settle(Outcome.FAILURE, "failed_word", report)',
        _DECIDE,
    ),
    one(
        "not_found counts at the first sighting",
        _LAW,
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
    one(
        "upstream that cannot be asked for long counts as a failure",
        _LAW,
        '                return _hold("unreachable_past_limit", detail, report)\n',
        '                return GiveUp(True, "expired", detail, report.payload)\n',
        _DECIDE,
    ),
    one(
        "word in no list past the deadline is refunded",
        _LAW,
        '        return _hold("unknown_past_deadline", f"upstream says a word in no list: {clean_text(word, 64)}", report)\n',
        '        return GiveUp(True, "expired", "unknown", report.payload)\n',
        _DECIDE,
    ),
    one(
        "policy hold ignored: what expires is refunded",
        _LAW,
        "return GiveUp(policy.deadline_refunds, reason,",
        "return GiveUp(True, reason,",
        _DECIDE,
    ),
    one(
        "triggered asks count as sightings of not_found",
        _LAW,
        "if not is_triggered and (not sightings or",
        "if not sightings or (",
        _DECIDE,
    ),
    # -- which task it is about
    one(
        "answer about one task is taken for all of its batch",
        _BATCH,
        "reports.get(upstream_id, NO_ANSWER)",
        "next(iter(reports.values()), NO_ANSWER)",
        f"{_BENCH}::test_a_failed_word_gives_everything_back_and_a_task_without_a_report_stays_open",
    ),
    one(
        "no answer taken for absence: what expires then had no evidence",
        _BATCH,
        "reports.get(upstream_id, NO_ANSWER)",
        "reports.get(upstream_id, Report(Kind.ABSENT))",
        f"{_BENCH}::test_a_task_past_its_deadline_that_nobody_answered_about_stays_open",
    ),
    Mutation(
        "tasks of all channels are asked about at each: their ids may be the same",
        (
            Patch("postgres/sql/*/page.sql", "WHERE t.channel_id = $1::bigint", "WHERE $1::bigint IS NOT NULL"),
            Patch(SETTLE, "AND coalesce(t.channel_id, 0) = a.channel_id AS is_same", "AS is_same"),
        ),
        (f"{_WALK}::test_one_id_on_two_channels_ends_as_each_upstream_says_of_its_own",),
    ),
    one(
        "tasks of all tenants and models share a batch",
        "core/batches.py",
        "        place = (self._route(task), most)\n",
        "        place = next(iter(self._open), None) or (self._route(task), most)\n",
        "tests/upstream/test_tenants.py::test_one_tenants_token_never_travels_with_another_tenants_task",
    ),
    # -- what an answer proves
    one(
        "answer with strangers proves absence",
        _WIRE,
        "ABSENT if is_absence_proven and not strangers else UNPROVEN",
        "ABSENT if is_absence_proven else UNPROVEN",
        f"{_BYTES} -k 'one_report_for_each_asked_id or letter'",
    ),
    one(
        "object without an id proves absence",
        _WIRE,
        "ABSENT if is_absence_proven and not strangers else UNPROVEN",
        "ABSENT if not strangers else UNPROVEN",
        f"{_BYTES}::test_object_without_an_id_may_be_the_one_that_is_missing",
    ),
    one(
        "contradiction: the first word counts",
        _WIRE,
        "return earlier if earlier[:-1] == later[:-1] else Report(Kind.CONTRADICTION, payload=earlier.payload)",
        "return earlier",
        f"{_BYTES}::test_items_that_differ_in_anything_that_counts_are_no_evidence",
    ),
    one(
        "answer whose code is not 0 is believed",
        _WIRE,
        """if not (code == "0" or (type(code) in (int, float) and code == 0)):""",
        "if False:",
        f"{_BYTES}::test_anything_else_is_not_a_good_code",
    ),
    Mutation(
        "what a long list leaves out is absent at once",
        (
            Patch(_INQUIRY, "        if told.tasks:\n", "        if told.tasks and not untold.tasks:\n"),
            Patch(
                _INQUIRY,
                "if is_alone or len(batch.tasks) <= largest_told or not overdue.tasks:",
                "if batch.tasks:",
            ),
        ),
        (f"{_WALK}::test_a_list_that_upstream_cuts_ends_no_task_past_its_deadline",),
    ),
    one(
        "absence at some keys of a channel is absence",
        _INQUIRY,
        "said if len(keys) == len(ring.keys) else {}",
        "said",
        f"{_KEYS} -k 'two_of_fifty or absence_at_one_key'",
    ),
    one(
        "what the last key of a channel says is what all say",
        _INQUIRY,
        "weaker(asked.said.get(name, report), report)",
        "report",
        f"{_KEYS} -k 'not_found_counts_only or absence_at_one_key'",
    ),
    # -- when it is past its deadline
    one(
        "answer to a question from before the deadline counts as one after it",
        _INQUIRY,
        "now_s=asked_s,",
        "now_s=self._now_s(),",
        f"{_WALK}::test_a_deadline_that_passes_while_upstream_is_asked_waits_for_the_next_ask",
    ),
    one(
        "deadline by our own clock",
        "walk.py",
        "        self._clock_s = now_s - own_s\n",
        '        self._clock_s = __import__("time").time() - own_s\n',
        f"{_WALK}::test_a_deadline_comes_by_the_databases_clock_and_not_by_ours",
    ),
    # -- the limit of refunds
    one(
        "limit of refunds ignored",
        "batch.py",
        "admitted, waiting = self._refunds.admit(wishes)",
        "admitted, waiting = wishes, []",
        "tests/upstream/test_refund_limit.py",
    ),
    one(
        "limit of refunds: what is beyond it is charged as reserved",
        _LIMIT,
        "                waiting.append(each)\n",
        '                admitted.append(__import__("dataclasses").replace(each, outcome=Outcome.SUCCESS, charged=None))\n',
        f"{_LIMITED} -k untouched",
    ),
    one(
        "limit of refunds: what is beyond it goes to a person",
        _BATCH,
        "            judged.waiting |= {each.task.pk for each in waiting}\n",
        '            judged.holds += [(each.task, "refund_limit", "", "") for each in waiting]\n',
        f"{_LIMITED} -k untouched",
    ),
    one(
        "answer too many on a used connection ends a task past its deadline",
        "inquiry.py",
        "return any(now_s - task.submitted_s >= self._lifetime_s for task in batch.rows())",
        "return False",
        "tests/upstream/test_deadline_evidence.py",
    ),
    one(
        "answer that tells of none makes silence about as many credible",
        "inquiry.py",
        "if any(answer.reports[name].kind is Kind.SAID for name in told.tasks):",
        "if told.tasks:",
        "tests/upstream/test_deadline_evidence.py",
    ),
    one(
        "limit of refunds: successes wait too",
        _LIMIT,
        "return max(0, settlement.task.reserved) if settlement.outcome is Outcome.FAILURE else 0",
        "return max(0, settlement.task.reserved)",
        f"{_LIMITED} -k successes",
    ),
    one(
        "limit of refunds: the rest that a success gives back counts",
        _LIMIT,
        "        if settlement.outcome is Outcome.FAILURE:\n",
        "        if settlement is not None:\n",
        "tests/core/test_refunds.py -k corrects",
    ),
    one(
        "limit of refunds: what successes gave back within the hour counts",
        "postgres/sql/own/refunded.sql",
        "l.rule IN ('failed_word',",
        "l.rule IN ('success_word', 'failed_word',",
        f"{_LIMITED} -k successes",
    ),
    one(
        "limit of refunds: what is being settled just now does not count",
        _LIMIT,
        "                self.given += refund\n",
        "                self.given += 0\n",
        f"{_LIMITED} -k side_by_side",
    ),
    one(
        "limit of refunds: that of one channel holds up the others",
        "postgres/sql/own/refunded.sql",
        "WHERE l.channel_id = $1::bigint",
        "WHERE $1::bigint IS NOT NULL",
        f"{_LIMITED} -k other_channels",
    ),
)
