"""What the next turn says of the answer before it: was its tool call accepted, did its tests pass, was it asked again.

Free labels, and weak ones: they are about one answer of one tier. Pure.
"""

import re
from collections.abc import Sequence

from ..values.request import Message
from .request_features import text_of

# Characters read of each end of a tool's result.
_RESULT_CHARS = 400
_FAILURE_PATTERN = re.compile(
    r"\b(?:[1-9]\d* (?:failed|errors?)|traceback|exception|command not found|no such file|invalid (?:argument|tool|input)"
    r"|error:|unknown tool|failed to)\b",
    re.IGNORECASE,
)
_SUCCESS_PATTERN = re.compile(r"\b[1-9]\d* passed\b|\btests? passed\b|\ball tests pass", re.IGNORECASE)
# Results of one turn that are read.
_RESULTS_MAX = 8


def tool_success_share(messages: Sequence[Message]) -> float | None:
    """How the calls of the newest answer fared, in [0, 1], by the results that follow it; None where it made none."""
    found: list[float] = []
    for message in reversed(messages):
        if message.role != "tool" or len(found) >= _RESULTS_MAX:
            break
        found.append(_result_score(message))
    return sum(found) / len(found) if found else None


def _result_score(message: Message) -> float:
    if message.is_error is True:
        return 0.0
    text = text_of(message.content)
    text = text if len(text) <= 2 * _RESULT_CHARS else f"{text[:_RESULT_CHARS]}\n{text[-_RESULT_CHARS:]}"
    if _FAILURE_PATTERN.search(text):
        return 0.0
    return 1.0 if _SUCCESS_PATTERN.search(text) or message.is_error is False or text.strip() else 0.5
