"""A candidate that cannot read what the conversation's history holds is struck."""

from ...values.plan import Facts
from .candidate import Candidate


def forbids(candidate: Candidate, facts: Facts) -> str | None:
    """Why this deployment cannot go on with the conversation, None if it can."""
    deployment = candidate.deployment
    for bond in facts.bonds:
        if bond.providers is not None and deployment.provider not in bond.providers:
            where = ", ".join(sorted(bond.providers)) or "no candidate here"
            return f"bound: the history holds {bond.what}, readable by {where}"
        if bond.models is not None and deployment.model not in bond.models:
            return f"bound to {bond.what} ({', '.join(sorted(bond.models))})"
    return None
