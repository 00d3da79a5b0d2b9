"""Quality labels from tool results: whether the last tool calls succeeded. Pure.

Free labels, and weak ones: each is about one response of one tier.
"""

import re
from collections.abc import Sequence

from ..values.request import Message
from .request_features import text_of

# Characters read of each end of a tool result.
_RESULT_CHARS = 400
_FAILURE_PATTERN = re.compile(
    r"\b(?:[1-9]\d* (?:failed|errors?)|traceback|exception|command not found|no such file|invalid (?:argument|tool|input)"
    r"|error:|unknown tool|failed to)\b",
    re.IGNORECASE,
)
_SUCCESS_PATTERN = re.compile(r"\b[1-9]\d* passed\b|\btests? passed\b|\ball tests pass", re.IGNORECASE)
# Results read of one turn.
_RESULTS_MAX = 8


def tool_success_share(messages: Sequence[Message]) -> float | None:
    """Success share of the newest tool calls, in [0, 1]; None without calls."""
    scores: list[float] = []
    for message in reversed(messages):
        if message.role != "tool" or len(scores) >= _RESULTS_MAX:
            break
        scores.append(_result_score(message))
    return sum(scores) / len(scores) if scores else None


def _result_score(message: Message) -> float:
    if message.is_error is True:
        return 0.0
    text = text_of(message.content)
    text = text if len(text) <= 2 * _RESULT_CHARS else f"{text[:_RESULT_CHARS]}\n{text[-_RESULT_CHARS:]}"
    if _FAILURE_PATTERN.search(text):
        return 0.0
    return 1.0 if _SUCCESS_PATTERN.search(text) or message.is_error is False or text.strip() else 0.5
