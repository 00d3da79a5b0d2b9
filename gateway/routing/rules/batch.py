"""Excludes batch deployments from requests that are not deferrable."""

from ...values.plan import RequestFeatures
from .candidate import Candidate


def forbids(candidate: Candidate, features: RequestFeatures) -> str | None:
    """Why the deployment may not serve the request, None if it may."""
    if candidate.deployment.is_batch and not candidate.deferrable:
        return "batch: serves deferrable requests only (x-penstock-defer, or energy.defer)"
    return None
