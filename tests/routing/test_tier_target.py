"""Tier targets: which tier suffices, on what basis, and shares that hold."""

import random

import pytest

from gateway.config.load import parse
from gateway.routing.tier_target import TierTargets
from gateway.values.catalog import Tier
from gateway.values.plan import Classification
from gateway.values.quality import Role
from tests.snapshots import BASE_CONFIG, ENV, snapshot


def classification(complexity: float) -> Classification:
    return Classification(complexity=complexity, task_type="other", confidence=0.0, reason="test")


def three_tiers(more: str):
    medium = "  medium: {provider: near, model: m, tier: medium, price: {input: 0.5, output: 4}, output_tokens: 4000}\nroutes:\n"
    text = BASE_CONFIG.format(more=more, small="", near="http://a/v1", far="http://b/v1").replace("routes:\n", medium)
    return parse(text.replace("auto: {candidates: [small,", "auto: {candidates: [small, medium,"), "t", ENV)[0]


def realized_share(config, roles, count: int = 2000) -> float:
    """The realized share of requests targeted config the frontier."""
    targets, randomness, high = TierTargets(), random.Random(1), 0
    for number in range(count):
        role = roles[number % len(roles)]
        target = targets.choose(config.routes["auto"], classification(randomness.random()), "default", config, role)
        high += target.tier == Tier.frontier
    return high / count


def test_a_share_is_held_by_the_other_requests_where_a_role_is_limited():
    config = three_tiers("quality: {frontier_share: 0.3}")
    assert realized_share(config, [None, Role(name="r", tier_max=Tier.medium)]) == pytest.approx(0.3, abs=0.03)


def test_a_role_with_one_tier_counts_on_no_share():
    config = snapshot(more="quality: {frontier_share: 0.5}")
    targets, role = TierTargets(), Role(name="r", tier_max=Tier.small)
    chosen = [targets.choose(config.routes["auto"], classification(0.9), "default", config, role) for _ in range(50)]
    assert {(target.tier, target.basis, target.tier_max) for target in chosen} == {(Tier.small, "role", Tier.small)}


@pytest.mark.parametrize(
    "role, tier",
    [
        (Role(name="r", tier_min=Tier.frontier), Tier.frontier),
        (Role(name="r", tier_min=Tier.medium), Tier.frontier),
        (Role(name="r", tier_max=Tier.small), Tier.small),
        (None, Tier.small),
    ],
)
def test_roles_bound_the_ceilings(role, tier):
    config = snapshot()
    assert TierTargets().choose(config.routes["auto"], classification(0.1), "default", config, role).tier == tier


def test_shares_count_the_tier_that_served():
    config, targets, randomness, served = (
        snapshot(more="quality: {frontier_share: 0.5}"),
        TierTargets(),
        random.Random(2),
        0,
    )
    for _ in range(1000):
        target = targets.choose(config.routes["auto"], classification(randomness.random()), "default", config)
        # One in four frontier requests is served below it.
        tier = target.tier if target.tier == Tier.small or randomness.random() > 0.25 else Tier.small
        served += tier == Tier.frontier
        targets.record_served(target, tier, Tier.frontier)
    assert served / 1000 == pytest.approx(0.5, abs=0.05)
