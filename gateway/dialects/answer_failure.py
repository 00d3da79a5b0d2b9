"""Recognizes failures that a provider reports under status 200. Pure.

Whole answers: `failed_answer` returns what has to be read as an error body. Streams: `reported_error` finds the error of an
event. What an error means is for `providers`.
"""

from collections.abc import Callable, Mapping
from typing import Any

# Finish reason of a choice that failed (OpenRouter, "Errors and debugging", 2026).
FAILED_FINISH_REASON = "error"


def reported_error(payload: Mapping[str, Any]) -> Any:
    """Return the error that an object reports, None without one.

    `{"error": ...}` (OpenAI, Anthropic, Google), `{"type": "error"}` (Anthropic), `{"object": "error"}` (vLLM).
    """
    error = payload.get("error")
    if error:
        # {"error": "name", "message": "words"}: the words are beside the error.
        return error if isinstance(error, dict) or "message" not in payload else payload
    return payload if payload.get("type") == "error" or payload.get("object") == "error" else None


def choice_error(choice: Mapping[str, Any]) -> Any:
    """Return the error of one choice, None without one."""
    if choice.get("error"):
        return choice["error"]
    if choice.get("finish_reason") == FAILED_FINISH_REASON:
        return {"message": "The provider ended the answer with finish_reason 'error'."}
    return None


def failed_answer(
    document: Mapping[str, Any], has_answer: Callable[[Mapping[str, Any]], bool]
) -> Mapping[str, Any] | None:
    """Return the error body behind an unstreamed answer that is a failure, None for an answer.

    `has_answer`: whether the document has the parts that make it an answer in its dialect.
    """
    error = reported_error(document)
    if error is not None:
        return {"error": error}
    return None if has_answer(document) else document


def failed_chat_answer(document: Mapping[str, Any], *, part: str) -> Mapping[str, Any] | None:
    """The same for choices, which may fail one by one: a failure where all of them do.

    part: what a choice consists of, "message" or "text"
    """
    failure = failed_answer(document, lambda answer: _has_choice(answer, part))
    if failure is not None:
        return failure
    errors = [choice_error(choice) for choice in document["choices"] if isinstance(choice, dict)]
    return {"error": errors[0]} if errors and all(error is not None for error in errors) else None


def _has_choice(document: Mapping[str, Any], part: str) -> bool:
    choices = document.get("choices")
    return isinstance(choices, list) and any(
        isinstance(choice, dict) and (choice.get(part) is not None or choice_error(choice) is not None)
        for choice in choices
    )
