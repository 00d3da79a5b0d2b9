"""Excludes candidates outside the allowed grid zones and cloud regions."""

from fnmatch import fnmatchcase

from ...values.plan import RequestFeatures
from .candidate import Candidate


def forbids(candidate: Candidate, features: RequestFeatures) -> str | None:
    """Why the deployment's location is not allowed, None if it is."""
    zones = candidate.energy_policy.allowed_zones
    if not zones:
        return None
    deployment = candidate.deployment
    locations = [name for name in (deployment.annual_intensity.zone, deployment.cloud_region) if name]
    if any(fnmatchcase(name, pattern) for name in locations for pattern in zones):
        return None
    return f"zone: {deployment.annual_intensity.zone} not in {', '.join(zones[:4])}"
