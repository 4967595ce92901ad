"""The campaign in short: a few schedules of random faults, and every invariant after each."""

from __future__ import annotations

import random

import pytest

from tests.faults import campaign as command
from tests.faults.abilities import abilities
from tests.faults.campaign import GREEN, INCONCLUSIVE, RED, Campaign, Tally
from tests.faults.labels import labels
from tests.faults.plan import RARE, WEIGHTS, focused, plan

SCHEDULES = 4
ABLE = frozenset({"pooler", "redis", *WEIGHTS})


async def test_random_faults_violate_nothing_and_what_was_claimed_has_happened(tmp_path, capsys):
    seed = random.SystemRandom().randrange(2**31)
    again = f"python -m tests.faults.campaign --seed {seed} --schedules {SCHEDULES}"
    with capsys.disabled():
        print(f"\n{again}")
    tally = await Campaign(seed, folder=tmp_path).run(SCHEDULES, workers=2)
    print("\n".join(tally.lines()))
    assert tally.violations == [], again
    assert tally.missed == [], again
    assert tally.code == GREEN, again
    assert tally.settlements > 200


def test_a_schedule_follows_from_its_seed_and_number_alone():
    assert [plan(7, number, ABLE) for number in range(50)] == [plan(7, number, ABLE) for number in range(50)]
    assert plan(7, 1, ABLE).steps != plan(8, 1, ABLE).steps
    assert focused(7, 1, "hang") == focused(7, 1, "hang")


def test_a_campaign_of_some_length_comes_to_every_fault_profile_and_crash_point():
    plans = [plan(7, number, ABLE) for number in range(120)]
    claims = frozenset().union(*(each.claims for each in plans))
    arrived = {"lines elsewhere", "balances moved"}
    assert claims == {f"crash at {label}" for label in labels()} | WEIGHTS.keys() - {"crash"} | {"pooler"} | arrived
    assert len({each.profile for each in plans}) == 3
    assert all(RARE[step.label] in each.circumstances for each in plans for step in each.steps if step.label in RARE)


def test_what_this_machine_cannot_do_is_in_no_schedule():
    plans = [plan(7, number, ABLE - {"full_disk", "pooler", "redis"}) for number in range(60)]
    assert all("full_disk" not in each.claims and not each.is_pooled for each in plans)
    assert all("redis" not in each.circumstances for each in plans)


@pytest.mark.parametrize(
    ("claims", "hits", "violations", "code"),
    [
        ({"hang"}, {"hang": 1}, [], GREEN),
        ({"hang"}, {}, [], INCONCLUSIVE),
        ({"hang"}, {"hang": 1}, ["schedule 0: i01"], RED),
        ({"hang"}, {}, ["schedule 0: i01"], RED),
    ],
)
def test_a_campaign_that_missed_what_it_claims_is_not_green(claims, hits, violations, code):
    tally = Tally(1, schedules=1, settlements=9, claims=claims, violations=violations)
    tally.hits.update(hits)
    assert tally.code == code
    assert tally.lines()[-1] == {GREEN: "green", RED: "RED", INCONCLUSIVE: "INCONCLUSIVE"}[code]


def test_faults_of_schedules_are_faults_of_the_nemesis():
    from tests.faults.nemesis import FAULTS

    assert FAULTS.keys() == WEIGHTS.keys()
    assert command.abilities is abilities
