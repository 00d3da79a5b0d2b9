"""Excludes candidates that cannot read the state in the conversation's history."""

from ...values.plan import RequestFeatures
from .candidate import Candidate


def forbids(candidate: Candidate, features: RequestFeatures) -> str | None:
    """Why the deployment cannot continue the conversation, None if it can."""
    deployment = candidate.deployment
    for affinity in features.affinities:
        if affinity.providers is not None and deployment.provider not in affinity.providers:
            readers = ", ".join(sorted(affinity.providers)) or "no candidate of this route"
            return f"affinity: {affinity.cause} readable only by {readers}"
        if affinity.models is not None and deployment.model not in affinity.models:
            return f"affinity: {affinity.cause} of {', '.join(sorted(affinity.models))}"
    return None
