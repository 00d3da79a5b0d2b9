"""Values of reasoning effort, and how those of one dialect are those of another."""

from collections.abc import Mapping, Sequence
from typing import Any

# OpenAI's, ascending (API reference, reasoning_effort, 2026-11).
OPENAI_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")
ANTHROPIC_EFFORTS = ("low", "medium", "high", "xhigh", "max")
# Anthropic's by OpenAI's, and OpenAI's by Anthropic's (docs.anthropic.com, effort, 2026-11). What a model lacks of them
# is replaced for its deployment (known_limits.py).
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


# All values, ascending.
_ALL_EFFORTS = (*OPENAI_EFFORTS, "max")


def nearest(effort: str, accepted: Sequence[str]) -> str:
    """Return the effort if it is accepted, else the nearest, of two the lower."""
    if effort in accepted:
        return effort
    place = _ALL_EFFORTS.index(effort) if effort in _ALL_EFFORTS else _ALL_EFFORTS.index("medium")
    return min(accepted, key=lambda other: (abs(_ALL_EFFORTS.index(other) - place), _ALL_EFFORTS.index(other)))
