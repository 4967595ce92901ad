"""No reason reaches a person without saying what it means, and those that hold a task say what mends it."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import poller.batch
import poller.walk
from poller.cli.reasons import HELD, RULES, meaning
from poller.core import decide
from poller.postgres import settle
from poller.postgres.statements import PROFILES

SQL = Path(settle.__file__).parent / "sql"


def of_sql(profile: str) -> set[str]:
    """The reasons for which statement settle leaves a task to a person."""
    text = (SQL / profile / "settle.sql").read_text()
    found = set()
    for name, prefix in (("obstacle", ""), ("reason", ""), ("short", "no_")):
        # The CASE that ends in this name, and no other one before it.
        (case,) = re.findall(rf"CASE\n(?:(?!CASE\n)[\s\S])*?END AS {name}\b", text)
        found |= {f"{prefix}{word}" for word in re.findall(r"THEN\s+'([a-z_]+)'", case)}
    return found


def of_python() -> set[str]:
    """Those that settling, a batch and a pass give by themselves."""
    found = set(re.findall(r'"([a-z]\w+)"', inspect.getsource(settle._poison_reason)))
    found |= set(re.findall(r'\(one, "([a-z_]+)"', inspect.getsource(settle)))
    found |= set(re.findall(r'\(task, "([a-z_]+)"', inspect.getsource(poller.batch)))
    return found | {poller.walk._LONE_FAULT}


@pytest.mark.parametrize("profile", PROFILES)
def test_every_reason_that_settling_can_give_says_what_it_is_and_what_mends_it(profile: str):
    reasons = of_sql(profile) | of_python() | decide.HOLD_REASONS
    assert {"user_gone", "no_user_row", "ledger_of_another_task", "bad_amount", "odd_data"} <= reasons
    assert {"charge_implausible", "quota_overflow", "refused_alone", "expired"} - reasons == {"expired"}
    assert reasons - HELD.keys() == set()


def test_every_rule_that_settles_has_an_explanation():
    assert RULES.keys() >= decide.SETTLE_REASONS | decide.REFUND_REASONS


def test_what_is_held_names_a_command_that_ends_it():
    for reason, text in HELD.items():
        assert re.search(r"poller tasks (requeue|resolve) ID", text), reason
        assert meaning(reason) == f"{reason} ({text})"


def test_no_explanation_is_left_of_a_reason_that_nobody_gives():
    given = set().union(*(of_sql(profile) for profile in PROFILES)) | of_python() | decide.HOLD_REASONS
    assert HELD.keys() - given == set()
