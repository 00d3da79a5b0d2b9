"""A candidate whose expected energy is above the operator's cap for one request is struck."""

from ...values.plan import Facts
from ...values.units import MILLIJOULES_PER_WH
from .candidate import Candidate


def forbids(candidate: Candidate, facts: Facts) -> str | None:
    """Why this deployment would take too much energy, None if it would not. `facts` are not needed here."""
    cap = candidate.millijoules_cap
    if cap is None or candidate.expected_millijoules <= cap:
        return None
    expected = candidate.expected_millijoules / MILLIJOULES_PER_WH
    return f"energy: about {expected:.3g} Wh, cap {cap / MILLIJOULES_PER_WH:.3g} Wh"
