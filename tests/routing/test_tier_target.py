"""Aims: which tier will do, on what grounds, and shares that hold whatever roles and economics do."""

import random

import pytest

from gateway.config.load import parse
from gateway.routing.tier_target import TierTargets
from gateway.values.catalog import Tier
from gateway.values.plan import Classification
from gateway.values.quality import Role
from tests.snapshots import BASE_CONFIG, ENV, snapshot


def verdict(complexity: float) -> Classification:
    return Classification(complexity=complexity, task_type="other", confidence=0.0, reason="test")


def three_tiers(more: str):
    medium = "  medium: {provider: near, model: m, tier: medium, price: {input: 0.5, output: 4}, output_tokens: 4000}\nroutes:\n"
    text = BASE_CONFIG.format(more=more, small="", near="http://a/v1", far="http://b/v1").replace("routes:\n", medium)
    return parse(text.replace("auto: {candidates: [small,", "auto: {candidates: [small, medium,"), "t", ENV)[0]


def realised(at, roles, count: int = 2000) -> float:
    """The share that aims at the top of the requests whose role leaves a choice."""
    aims, randomness, high, asked = TierTargets(), random.Random(1), 0, 0
    for number in range(count):
        role = roles[number % len(roles)]
        target = aims.choose(at.routes["auto"], verdict(randomness.random()), "default", at, role)
        asked += 1
        high += target.tier == Tier.frontier
    return high / asked


def test_a_share_is_made_good_by_others_where_a_role_stays_below():
    at = three_tiers("quality: {frontier_share: 0.3}")
    assert realised(at, [None, Role(name="r", tier_max=Tier.medium)]) == pytest.approx(0.3, abs=0.03)


def test_a_role_that_leaves_no_choice_is_no_part_of_a_share():
    at = snapshot(more="quality: {frontier_share: 0.5}")
    aims, role = TierTargets(), Role(name="r", tier_max=Tier.small)
    found = [aims.choose(at.routes["auto"], verdict(0.9), "default", at, role) for _ in range(50)]
    assert {(target.tier, target.basis, target.tier_max) for target in found} == {(Tier.small, "role", Tier.small)}


@pytest.mark.parametrize(
    "role, tier",
    [
        (Role(name="r", tier_min=Tier.frontier), Tier.frontier),
        (Role(name="r", tier_min=Tier.medium), Tier.frontier),
        (Role(name="r", tier_max=Tier.small), Tier.small),
        (None, Tier.small),
    ],
)
def test_roles_bound_what_ceilings_say(role, tier):
    at = snapshot()
    assert TierTargets().choose(at.routes["auto"], verdict(0.1), "default", at, role).tier == tier


def test_where_it_went_in_the_end_is_what_counts():
    at, aims, randomness, served = snapshot(more="quality: {frontier_share: 0.5}"), TierTargets(), random.Random(2), 0
    for _ in range(1000):
        target = aims.choose(at.routes["auto"], verdict(randomness.random()), "default", at)
        # One in four that should go there stays below.
        tier = target.tier if target.tier == Tier.small or randomness.random() > 0.25 else Tier.small
        served += tier == Tier.frontier
        aims.record_served(target, tier, Tier.frontier)
    assert served / 1000 == pytest.approx(0.5, abs=0.05)
