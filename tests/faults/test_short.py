"""The campaign in short: a few schedules of random faults, and every invariant after each."""

from __future__ import annotations

import random

import pytest

from tests.faults import campaign as command
from tests.faults.abilities import abilities
from tests.faults.campaign import BROKEN, GREEN, INCONCLUSIVE, RED, Campaign, Tally
from tests.faults.plan import DEEDS, HABITS, RARE, WEIGHTS, all_claims, focused, plan
from tests.faults.rig import Rig

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
    assert tally.broken == [], again
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
    assert claims == all_claims()
    assert len({each.profile for each in plans}) == 3
    assert all(RARE[step.label] in each.circumstances for each in plans for step in each.steps if step.label in RARE)


def test_what_this_machine_cannot_do_is_in_no_schedule():
    plans = [plan(7, number, ABLE - {"full_disk", "pooler", "redis"}) for number in range(60)]
    assert all("full_disk" not in each.claims and not each.is_pooled for each in plans)
    assert all("redis" not in each.circumstances for each in plans)


@pytest.mark.parametrize(
    ("hits", "violations", "broken", "code", "said"),
    [
        ({"hang": 1}, [], [], GREEN, "green"),
        ({}, [], [], INCONCLUSIVE, "INCONCLUSIVE"),
        ({"hang": 1}, ["schedule 0: i01"], [], RED, "RED"),
        ({}, ["schedule 0: i01"], ["schedule 1: no standby"], RED, "RED"),
        ({"hang": 1}, [], ["schedule 1: no standby"], BROKEN, "BROKEN"),
    ],
)
def test_a_campaign_that_missed_what_it_claims_or_could_not_check_it_is_not_green(hits, violations, broken, code, said):
    tally = Tally(1, schedules=1, settlements=9, claims={"hang"}, violations=violations, broken=broken)
    tally.hits.update(hits)
    assert tally.code == code
    assert tally.lines()[-2:] == [f"violations: {len(violations)}, broken schedules: {len(broken)}", said]


def test_a_green_campaign_says_what_it_had_to_do_without():
    tally = Tally(1, schedules=1, settlements=9, skipped={"clock": "no libfaketime"})
    assert tally.code == GREEN
    assert tally.lines()[-1] == "green, but without clock"


async def test_a_claim_that_cannot_be_made_here_is_inconclusive(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "abilities", lambda _cluster: (ABLE - {"clock"}, {"clock": "no libfaketime"}))
    campaign = Campaign(1, folder=tmp_path, is_talkative=False)
    assert (await campaign.run(1, claim="clock")).code == INCONCLUSIVE
    assert campaign.tally.missed == ["clock"]


async def test_a_schedule_whose_rig_breaks_is_no_violation_and_shows_nothing(tmp_path, monkeypatch):
    async def breaks(rig: Rig) -> None:
        rig.hits["hang"] += 1
        raise OSError("no standby")

    monkeypatch.setattr(Rig, "run", breaks)
    campaign = Campaign(1, folder=tmp_path, is_talkative=False)
    tally = await campaign.run(1, claim="hang", makes_up=False)
    assert (tally.code, tally.violations, tally.hits["hang"]) == (BROKEN, [], 0)
    assert tally.broken == ["schedule 0: OSError('no standby')"]


def test_what_a_gateway_does_beside_it_is_claimed_as_any_fault():
    plans = [plan(7, number, ABLE) for number in range(60)]
    assert all(DEEDS[habit] in each.claims for each in plans for habit in each.habits)
    for habit, deed in DEEDS.items():
        assert habit in focused(7, 1, deed).habits
        assert deed in focused(7, 1, deed).claims
    assert frozenset(DEEDS) == frozenset(HABITS)


def test_faults_of_schedules_are_faults_of_the_nemesis():
    from tests.faults.nemesis import FAULTS

    assert FAULTS.keys() == WEIGHTS.keys()
    assert command.abilities is abilities
