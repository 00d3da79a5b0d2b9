"""A candidate that cannot take the request is struck: context, pictures, tools, structured output."""

from ...values.plan import RequestFeatures
from ...values.units import message_number
from .candidate import Candidate


def forbids(candidate: Candidate, features: RequestFeatures) -> str | None:
    """Why this deployment cannot serve the request, None if it can."""
    deployment = candidate.deployment
    # The count is an estimate: the roomiest is never struck for it, its provider knows and says so in its own words.
    if features.input_tokens > deployment.context_tokens_max and not candidate.longest_context:
        return f"context: about {message_number(features.input_tokens)} tokens, takes {message_number(deployment.context_tokens_max)}"
    if features.has_images and not deployment.vision:
        return "no vision"
    if features.tool_names and not deployment.tools:
        return "no tools"
    if features.has_schema and not deployment.takes_json_schema:
        return "no structured output"
    return None
