"""A candidate to whose dialect the request cannot be carried whole is struck, before anything is dialled."""

from ...values.plan import Facts
from .candidate import Candidate


def forbids(candidate: Candidate, facts: Facts) -> str | None:
    """Which field has no counterpart there, None if all have. `facts` are not needed here."""
    if candidate.speech is None:
        return "does not speak the caller's dialect, nor one that it can be carried to"
    return candidate.uncarried.message if candidate.uncarried is not None else None
