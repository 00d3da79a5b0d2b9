"""A candidate that cannot read what the conversation's history holds is struck."""

from ...values.plan import RequestFeatures
from .candidate import Candidate


def forbids(candidate: Candidate, features: RequestFeatures) -> str | None:
    """Why this deployment cannot go on with the conversation, None if it can."""
    deployment = candidate.deployment
    for affinity in features.bonds:
        if affinity.providers is not None and deployment.provider not in affinity.providers:
            where = ", ".join(sorted(affinity.providers)) or "no candidate here"
            return f"bound: the history holds {affinity.cause}, readable by {where}"
        if affinity.models is not None and deployment.model not in affinity.models:
            return f"bound to {affinity.cause} ({', '.join(sorted(affinity.models))})"
    return None
