"""A candidate to whose dialect the request cannot be carried whole is struck, before anything is dialled."""

from ...values.plan import RequestFeatures
from .candidate import Candidate


def forbids(candidate: Candidate, features: RequestFeatures) -> str | None:
    """Which field has no counterpart there, None if all have. `facts` are not needed here."""
    if candidate.upstream_dialect is None:
        return "does not speak the caller's dialect, nor one that it can be carried to"
    return candidate.not_translatable.message if candidate.not_translatable is not None else None
