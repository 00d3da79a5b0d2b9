"""A candidate that stands on another grid than those the operator allows is struck."""

from fnmatch import fnmatchcase

from ...values.plan import Facts
from .candidate import Candidate


def forbids(candidate: Candidate, facts: Facts) -> str | None:
    """Why it may not serve from there, None if it may. `facts` are not needed here."""
    zones = candidate.green.zones
    if not zones:
        return None
    deployment = candidate.deployment
    places = [place for place in (deployment.annual.zone, deployment.cloud_region) if place]
    if any(fnmatchcase(place, pattern) for place in places for pattern in zones):
        return None
    return f"zone: {deployment.annual.zone} is not among {', '.join(zones[:4])}"
