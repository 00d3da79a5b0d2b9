"""Collects what bears on the price of a streamed answer into the shape of a whole one. Pure."""

from collections.abc import Mapping
from typing import Any

from .usage_spellings import merged_usage, token_count

# Choices of a stream, and tool calls of each, that are kept.
_CHOICES_MAX, _TOOLS_MAX = 128, 4096
# Set where the output count of a streamed Messages answer is not its own yet.
OUTPUT_IS_PLACEHOLDER = "output_is_placeholder"
_NAMED_FIELDS = ("service_tier", "model")


def collect_chunk(answer: dict[str, Any], chunk: Mapping[str, Any]) -> bool:
    """Add usage, tier and tool calls that a chunk names to `answer`, which providers read like a whole answer.

    Returns whether the chunk has usage.
    """
    has_usage = False
    for place in (chunk, chunk.get("x_groq")):
        usage = place.get("usage") if isinstance(place, dict) else None
        if isinstance(usage, dict):
            answer["usage"], has_usage = merged_usage(answer.get("usage"), usage), True
    for name in _NAMED_FIELDS:
        value = chunk.get(name)
        if isinstance(value, str) and value:
            answer[name] = value
    choices = chunk.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            _collect_choice(answer, choice)
            has_usage = has_usage or isinstance(choice.get("usage"), dict)
    return has_usage


def collect_event(answer: dict[str, Any], event: Mapping[str, Any]) -> None:
    """Add usage, the stop reason and whether there is content to `answer`, as an event of Messages names them.

    The output count of message_start is a placeholder until a message_delta reports one (docs.anthropic.com, streaming,
    2026-08).
    """
    kind = event.get("type")
    if kind == "message_start":
        message = event.get("message")
        usage = message.get("usage") if isinstance(message, dict) else None
        answer[OUTPUT_IS_PLACEHOLDER], answer["content"] = True, []
    elif kind == "content_block_start":
        # The first one is always read: whether there was any output is known, not what it was.
        answer["content"] = [{}]
        return
    elif kind == "message_delta":
        delta, usage = event.get("delta"), event.get("usage")
        if isinstance(delta, dict) and isinstance(delta.get("stop_reason"), str):
            answer["stop_reason"] = delta["stop_reason"]
        tells_output = isinstance(usage, dict) and token_count(usage.get("output_tokens")) is not None
        if tells_output and answer.pop(OUTPUT_IS_PLACEHOLDER, False):
            answer["usage"] = {**answer.get("usage", {}), "output_tokens": None}
    else:
        return
    if isinstance(usage, dict):
        answer["usage"] = merged_usage(answer.get("usage"), usage)


def _collect_choice(answer: dict[str, Any], choice: dict[str, Any]) -> None:
    usage, delta = choice.get("usage"), choice.get("delta")
    found = delta if isinstance(delta, dict) else {}
    annotations, executed = found.get("annotations"), found.get("executed_tools")
    if isinstance(usage, dict):
        kept = _kept_choice(answer, choice)
        kept["usage"] = merged_usage(kept.get("usage"), usage)
    if isinstance(annotations, list) and any(_cites_page(annotation) for annotation in annotations):
        # One shows that there was a search, not how many there were.
        message = _kept_choice(answer, choice).setdefault("message", {})
        message["annotations"] = [{"type": "url_citation"}]
    if isinstance(executed, list) and executed:
        message = _kept_choice(answer, choice).setdefault("message", {})
        message["executed_tools"] = [*message.get("executed_tools", ()), *executed][:_TOOLS_MAX]


def _kept_choice(answer: dict[str, Any], choice: dict[str, Any]) -> dict[str, Any]:
    """The choice in `answer` with the index of this one; beyond the limit, the first."""
    choices: list[dict[str, Any]] = answer.setdefault("choices", [])
    index = choice.get("index")
    for kept in choices:
        if kept["index"] == index:
            return kept
    if len(choices) < _CHOICES_MAX:
        choices.append({"index": index})
    return choices[-1]


def _cites_page(annotation: Any) -> bool:
    return isinstance(annotation, dict) and annotation.get("type") == "url_citation"
