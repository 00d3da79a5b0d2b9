"""Parses an unstreamed answer, in any dialect: text, calls, finish reason, token confidence."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

# Tokens whose log-probabilities are read; uncertainty shows early.
_LOGPROB_TOKENS_MAX = 256
# Finish reasons, in all dialects, of an answer cut at its limit and of a withheld one.
_TRUNCATED_REASONS = frozenset({"length", "max_tokens", "max_output_tokens", "incomplete"})
_REFUSED_REASONS = frozenset({"content_filter", "refusal"})
# Types that are parsed; any other counts as other content.
_READ_BLOCK_TYPES = ("text", "tool_use", "thinking", "redacted_thinking")
_READ_ITEM_TYPES = ("message", "function_call", "reasoning")


class ParsedAnswer(NamedTuple):
    """The content of one answer.

    text: its text, or that of a refusal
    calls: function calls, (name, arguments as JSON text)
    truncated: whether it ended at the output limit
    refused: whether the model or a content filter refused
    has_other_content: whether it holds anything else (a call of another kind, audio, an image)
    logprob_margin_nats: mean gap between the log-probabilities of the two best tokens, None if not provided
    """

    text: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    truncated: bool = False
    refused: bool = False
    has_other_content: bool = False
    logprob_margin_nats: float | None = None


def parse_answer(document: Mapping[str, Any]) -> ParsedAnswer:
    """Parse an answer of chat completions, Messages or Responses; any other shape gives an empty one."""
    choices = document.get("choices")
    if isinstance(choices, list):
        return _parse_chat(choices[0] if choices and isinstance(choices[0], dict) else {})
    output = document.get("output")
    if isinstance(output, list):
        return _parse_responses(document, output)
    content = document.get("content")
    return _parse_messages(document, content if isinstance(content, list) else [])


def _parse_chat(choice: Mapping[str, Any]) -> ParsedAnswer:
    message = choice.get("message")
    message = message if isinstance(message, dict) else {}
    functions = [call.get("function") for call in _objects(message.get("tool_calls"))]
    finish = choice.get("finish_reason")
    refusal = message.get("refusal")
    return ParsedAnswer(
        text=_text(message.get("content")) or _text(refusal),
        calls=tuple(
            (_text(function.get("name")), _arguments_json(function.get("arguments")))
            for function in _objects(functions)
        ),
        truncated=_is_one_of(finish, _TRUNCATED_REASONS),
        refused=_is_one_of(finish, _REFUSED_REASONS) or bool(refusal),
        has_other_content=any(message.get(name) for name in ("function_call", "audio", "images"))
        or any("function" not in call for call in _objects(message.get("tool_calls"))),
        logprob_margin_nats=_logprob_margin_nats(choice.get("logprobs")),
    )


def _parse_messages(document: Mapping[str, Any], content: list[Any]) -> ParsedAnswer:
    blocks, finish = _objects(content), document.get("stop_reason")
    return ParsedAnswer(
        text="\n".join(_text(block.get("text")) for block in blocks if block.get("type") == "text"),
        calls=tuple(
            (_text(block.get("name")), _arguments_json(block.get("input")))
            for block in blocks
            if block.get("type") == "tool_use"
        ),
        truncated=_is_one_of(finish, _TRUNCATED_REASONS),
        refused=_is_one_of(finish, _REFUSED_REASONS),
        has_other_content=any(block.get("type") not in _READ_BLOCK_TYPES for block in blocks),
    )


def _parse_responses(document: Mapping[str, Any], output: list[Any]) -> ParsedAnswer:
    items = _objects(output)
    parts = [part for item in items if item.get("type") == "message" for part in _objects(item.get("content"))]
    return ParsedAnswer(
        text="\n".join(_text(part.get("text")) or _text(part.get("refusal")) for part in parts),
        calls=tuple(
            (_text(item.get("name")), _arguments_json(item.get("arguments")))
            for item in items
            if item.get("type") == "function_call"
        ),
        truncated=_is_one_of(document.get("status"), _TRUNCATED_REASONS),
        refused=any(part.get("type") == "refusal" for part in parts),
        has_other_content=any(item.get("type") not in _READ_ITEM_TYPES for item in items),
    )


def _logprob_margin_nats(logprobs: Any) -> float | None:
    """The margin from OpenAI's `logprobs.content[].top_logprobs` (two or more requested)."""
    tokens = logprobs.get("content") if isinstance(logprobs, dict) else None
    gaps = []
    for token in _objects(tokens)[:_LOGPROB_TOKENS_MAX]:
        candidates = [_logprob(candidate.get("logprob")) for candidate in _objects(token.get("top_logprobs"))]
        best = sorted(candidates, reverse=True)[:2]
        if len(best) == 2:
            gaps.append(min(20.0, best[0] - best[1]))
    return sum(gaps) / len(gaps) if gaps else None


def _is_one_of(value: Any, words: frozenset[str]) -> bool:
    return isinstance(value, str) and value in words


def _logprob(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else -20.0


def _arguments_json(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return ""


def _objects(value: Any) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
