"""A candidate whose circuit is open is struck: it kept failing, and one request at a time tries it again."""

import math

from ...values.plan import RequestFeatures
from .candidate import Candidate


def forbids(candidate: Candidate, features: RequestFeatures | None = None) -> str | None:
    """For how long it is not dialled, None if it is. `facts` are not needed here."""
    seconds = candidate.circuit_open_seconds
    return f"circuit open for {math.ceil(seconds)} s after failures" if seconds > 0 else None
