"""On an auto route a role that is bound to lower tiers never goes above them, whatever fails."""

from ...values.plan import RequestFeatures
from .candidate import Candidate


def forbids(candidate: Candidate, features: RequestFeatures) -> str | None:
    """Why the role may not use it, None if it may."""
    if candidate.tier_max is not None and candidate.deployment.tier > candidate.tier_max:
        return f"its role stays at {candidate.tier_max.name} or below"
    return None
