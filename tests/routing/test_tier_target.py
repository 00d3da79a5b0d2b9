"""Aims: which tier will do, on what grounds, and shares that hold whatever roles and economics do."""

import random

import pytest

from gateway.config.load import parse
from gateway.routing.tier_target import Aims
from gateway.values.catalog import Tier
from gateway.values.plan import Verdict
from gateway.values.quality import Role
from tests.snapshots import BASE, ENV, world


def verdict(complexity: float) -> Verdict:
    return Verdict(complexity=complexity, task_type="other", confidence=0.0, reason="test")


def three_tiers(more: str):
    medium = "  medium: {provider: near, model: m, tier: medium, price: {input: 0.5, output: 4}, output_tokens: 4000}\nroutes:\n"
    text = BASE.format(more=more, small="", near="http://a/v1", far="http://b/v1").replace("routes:\n", medium)
    return parse(text.replace("auto: {candidates: [small,", "auto: {candidates: [small, medium,"), "t", ENV)[0]


def realised(at, roles, count: int = 2000) -> float:
    """The share that aims at the top of the requests whose role leaves a choice."""
    aims, chance, high, asked = Aims(), random.Random(1), 0, 0
    for number in range(count):
        role = roles[number % len(roles)]
        aim = aims.aim(at.routes["auto"], verdict(chance.random()), "default", at, role)
        asked += 1
        high += aim.tier == Tier.frontier
    return high / asked


def test_a_share_is_made_good_by_others_where_a_role_stays_below():
    at = three_tiers("quality: {frontier_share: 0.3}")
    assert realised(at, [None, Role(name="r", tier_max=Tier.medium)]) == pytest.approx(0.3, abs=0.03)


def test_a_role_that_leaves_no_choice_is_no_part_of_a_share():
    at = world(more="quality: {frontier_share: 0.5}")
    aims, role = Aims(), Role(name="r", tier_max=Tier.small)
    found = [aims.aim(at.routes["auto"], verdict(0.9), "default", at, role) for _ in range(50)]
    assert {(aim.tier, aim.basis, aim.most) for aim in found} == {(Tier.small, "role", Tier.small)}


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
    at = world()
    assert Aims().aim(at.routes["auto"], verdict(0.1), "default", at, role).tier == tier


def test_where_it_went_in_the_end_is_what_counts():
    at, aims, chance, served = world(more="quality: {frontier_share: 0.5}"), Aims(), random.Random(2), 0
    for _ in range(1000):
        aim = aims.aim(at.routes["auto"], verdict(chance.random()), "default", at)
        # One in four that should go there stays below.
        tier = aim.tier if aim.tier == Tier.small or chance.random() > 0.25 else Tier.small
        served += tier == Tier.frontier
        aims.served(aim, tier, Tier.frontier)
    assert served / 1000 == pytest.approx(0.5, abs=0.05)
