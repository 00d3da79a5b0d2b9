"""Excludes candidates whose circuit breaker is open."""

import math

from ...values.plan import RequestFeatures
from .candidate import Candidate


def forbids(candidate: Candidate, features: RequestFeatures | None = None) -> str | None:
    """For how long the deployment is not dialed, None if it is."""
    seconds = candidate.circuit_open_seconds
    return f"circuit breaker open for {math.ceil(seconds)} s after repeated failures" if seconds > 0 else None
