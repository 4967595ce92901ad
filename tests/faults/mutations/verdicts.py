"""Bugs of what is taken for a verdict, and about which task."""

from __future__ import annotations

from tests.faults.mutations.mutation import Mutation, Patch, one

_DECIDE = "tests/core/test_decide.py"
_MODEL = "tests/faults/test_model.py"

MUTATIONS: tuple[Mutation, ...] = (
    one(
        "expired without evidence",
        "core/decide.py",
        "            return _KEPT[report.kind.value]\n",
        "            return _expired('nothing', report, policy) if is_past else _KEPT[report.kind.value]\n",
        _DECIDE,
    ),
    one(
        "unknown word taken for failed",
        "core/decide.py",
        '    return _keep("unknown_word", task)\n\n\ndef has_flipped',
        '    return _settle(Outcome.FAILURE, "failed_word", report)\n\n\ndef has_flipped',
        _DECIDE,
    ),
    one(
        "absent taken for failed",
        "core/decide.py",
        'if is_past else _keep("absent", task)',
        'if is_past else _settle(Outcome.FAILURE, "failed_word", report)',
        _DECIDE,
    ),
    one(
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
)
