"""What the operator allows of service tiers."""

import pytest

from gateway.values.service_tiers import NO_TIER_POLICY, TierPolicy, strictest


@pytest.mark.parametrize(
    ("actions", "tier", "action"),
    [
        ({"priority": "refuse"}, "priority", "refuse"),
        ({"priority": "refuse"}, "flex", ""),
        ({"*": "strip"}, "flex", "strip"),
        ({"*": "refuse", "flex": "allow"}, "flex", "allow"),
        ({"fast": "refuse"}, "priority", "refuse"),
        ({"fast": "refuse", "priority": "allow"}, "priority", "allow"),
        ({"priority": "refuse"}, "fast", ""),
    ],
    ids=[
        "by name",
        "not named",
        "by the star",
        "a name before the star",
        "by OpenAI's newer name",
        "its own name first",
        "Anthropic's speed is no priority",
    ],
)
def test_a_tier_has_the_action_of_its_name(actions: dict[str, str], tier: str, action: str) -> None:
    assert TierPolicy(actions=actions).action(tier) == action


def test_nothing_is_decided_without_a_policy() -> None:
    assert (NO_TIER_POLICY.action("priority"), NO_TIER_POLICY.inference_geo) == ("", "")


@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        (("allow", "refuse"), "refuse"),
        (("", "allow"), "allow"),
        (("strip", "allow"), "strip"),
        (("", ""), ""),
        ((), ""),
    ],
)
def test_the_strictest_of_several_decisions_applies(actions: tuple[str, ...], expected: str) -> None:
    assert strictest(actions) == expected
