"""A batch deployment serves work that can wait, and no other."""

from ...values.plan import Facts
from .candidate import Candidate


def forbids(candidate: Candidate, facts: Facts) -> str | None:
    """Why it may not serve this request, None if it may. `facts` are not needed here."""
    if candidate.deployment.batch and not candidate.deferrable:
        return "batch: for work that can wait (x-penstock-defer, or energy's defer)"
    return None
