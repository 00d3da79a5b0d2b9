"""On an auto route a role that is bound to lower tiers never goes above them, whatever fails."""

from ...values.plan import Facts
from .candidate import Candidate


def forbids(candidate: Candidate, facts: Facts) -> str | None:
    """Why the role may not use it, None if it may."""
    if candidate.most is not None and candidate.deployment.tier > candidate.most:
        return f"its role stays at {candidate.most.name} or below"
    return None
