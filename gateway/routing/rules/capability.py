"""Excludes candidates without the context, vision, tools or structured output."""

from ...values.plan import RequestFeatures
from ...values.units import message_number
from .candidate import Candidate


def forbids(candidate: Candidate, features: RequestFeatures) -> str | None:
    """Why the deployment cannot serve the request, None if it can."""
    deployment = candidate.deployment
    # The count is an estimate, so the longest context is never excluded for it: its provider counts exactly.
    if features.input_tokens > deployment.context_tokens_max and not candidate.longest_context:
        tokens, limit = message_number(features.input_tokens), message_number(deployment.context_tokens_max)
        return f"context: about {tokens} tokens, limit {limit}"
    if features.has_images and not deployment.vision:
        return "no vision"
    if features.tool_names and not deployment.tools:
        return "no tools"
    if features.has_schema and not deployment.takes_json_schema:
        return "no structured output"
    return None
