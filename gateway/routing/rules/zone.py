"""A candidate that stands on another grid than those the operator allows is struck."""

from fnmatch import fnmatchcase

from ...values.plan import RequestFeatures
from .candidate import Candidate


def forbids(candidate: Candidate, features: RequestFeatures) -> str | None:
    """Why it may not serve from there, None if it may. `facts` are not needed here."""
    zones = candidate.energy_policy.allowed_zones
    if not zones:
        return None
    deployment = candidate.deployment
    places = [place for place in (deployment.annual_intensity.zone, deployment.cloud_region) if place]
    if any(fnmatchcase(place, pattern) for place in places for pattern in zones):
        return None
    return f"zone: {deployment.annual_intensity.zone} is not among {', '.join(zones[:4])}"
