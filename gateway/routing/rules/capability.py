"""A candidate that cannot take the request is struck: context, pictures, tools, structured output."""

from ...values.plan import Facts
from ...values.units import told
from .candidate import Candidate


def forbids(candidate: Candidate, facts: Facts) -> str | None:
    """Why this deployment cannot serve the request, None if it can."""
    deployment = candidate.deployment
    # The count is an estimate: the roomiest is never struck for it, its provider knows and says so in its own words.
    if facts.input_tokens > deployment.context_tokens and not candidate.roomiest:
        return f"context: about {told(facts.input_tokens)} tokens, takes {told(deployment.context_tokens)}"
    if facts.has_images and not deployment.vision:
        return "no vision"
    if facts.tool_names and not deployment.tools:
        return "no tools"
    if facts.has_schema and not deployment.structured:
        return "no structured output"
    return None
