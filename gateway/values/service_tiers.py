"""What the operator allows of service tiers and regions, by route and by key."""

from collections.abc import Mapping

from .base import Value

# What happens to a request that asks for a tier, the strictest last.
TIER_ACTIONS = ("allow", "strip", "refuse")
# Stands for every tier that is not named.
ANY_TIER = "*"
# Other names of tiers: OpenAI calls its priority tier fast since 2026-07-30 (developers.openai.com, fast mode).
_OTHER_NAMES = {"priority": "fast"}


class TierPolicy(Value, frozen=True, kw_only=True):
    """The operator's decision on the service tiers and regions that callers ask for.

    actions: tier or ANY_TIER -> one of TIER_ACTIONS
    inference_geo: one of TIER_ACTIONS, "" for none given
    """

    actions: Mapping[str, str] = {}
    inference_geo: str = ""

    def action(self, tier: str) -> str:
        """The decision on a tier, "" for none given."""
        names = (tier, _OTHER_NAMES.get(tier, tier), ANY_TIER)
        return next((self.actions[name] for name in names if name in self.actions), "")


NO_TIER_POLICY = TierPolicy()


def strictest(actions: tuple[str, ...]) -> str:
    """The strictest of several decisions, "" where none is given."""
    return max(actions, key=lambda action: TIER_ACTIONS.index(action) if action else -1, default="")
