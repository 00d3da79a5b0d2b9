"""Values of reasoning effort, and how those of one dialect are those of another."""

from collections.abc import Mapping
from typing import Any

# OpenAI's, ascending (API reference, reasoning_effort, 2026-11).
OPENAI_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")
# Anthropic's by OpenAI's, and OpenAI's by Anthropic's (docs.anthropic.com, effort, 2026-11). What a model lacks of them
# is replaced for its deployment (providers/known_limits.py).
ANTHROPIC_BY_OPENAI: Mapping[str, str] = {
    "minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max",
}  # fmt: skip
OPENAI_BY_ANTHROPIC: Mapping[str, str] = {
    "low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high",
}  # fmt: skip
# Upper bounds, in thinking tokens, of what OpenAI's models spend at low and medium effort.
_LOW_TOKENS_MAX, _MEDIUM_TOKENS_MAX = 2048, 8192


def effort_of_budget(tokens: Any) -> str:
    """Return OpenAI's effort for a thinking budget of Anthropic's."""
    budget = tokens if isinstance(tokens, int) else 0
    return "low" if budget <= _LOW_TOKENS_MAX else "medium" if budget <= _MEDIUM_TOKENS_MAX else "high"
