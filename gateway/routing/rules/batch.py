"""A batch deployment serves work that can wait, and no other."""

from ...values.plan import RequestFeatures
from .candidate import Candidate


def forbids(candidate: Candidate, features: RequestFeatures) -> str | None:
    """Why it may not serve this request, None if it may. `facts` are not needed here."""
    if candidate.deployment.is_batch and not candidate.deferrable:
        return "batch: for work that can wait (x-penstock-defer, or energy's defer)"
    return None
