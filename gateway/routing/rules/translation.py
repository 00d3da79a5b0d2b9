"""Excludes candidates to whose dialect the request cannot be translated."""

from ...values.plan import RequestFeatures
from .candidate import Candidate


def forbids(candidate: Candidate, features: RequestFeatures) -> str | None:
    """Which field has no counterpart there, None if all have one."""
    if candidate.upstream_dialect is None:
        return "dialect: supports neither the caller's nor one to translate to"
    return candidate.not_translatable.message if candidate.not_translatable is not None else None
