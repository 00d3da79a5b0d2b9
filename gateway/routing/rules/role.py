"""Excludes tiers above a role's highest on auto routes, whatever fails."""

from ...values.plan import RequestFeatures
from .candidate import Candidate


def forbids(candidate: Candidate, features: RequestFeatures) -> str | None:
    """Why the role may not use the deployment, None if it may."""
    if candidate.tier_max is not None and candidate.deployment.tier > candidate.tier_max:
        return f"role: limited to {candidate.tier_max.name} or below"
    return None
