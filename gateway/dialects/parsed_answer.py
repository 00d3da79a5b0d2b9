"""What a whole answer says, in any dialect: its text, the calls that it makes, why it ended, how sure its tokens were."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

# Tokens whose log-probabilities are looked at; hesitation shows early.
_TOKENS_MAX = 256
# How the dialects say that an answer ended at its limit, and that it was withheld.
_CUT = frozenset({"length", "max_tokens", "max_output_tokens", "incomplete"})
_WITHHELD = frozenset({"content_filter", "refusal"})
# What is read; everything else that stands beside it is an answer, too.
_SPOKEN_BLOCKS = ("text", "tool_use", "thinking", "redacted_thinking")
_SPOKEN_ITEMS = ("message", "function_call", "reasoning")


class Said(NamedTuple):
    """`calls` are the calls of functions, (name, arguments as JSON text); `other`: it says something else than text and
    those (a call of another kind, sound, a picture). `margin` is the mean gap between the log-probabilities of the chosen
    token and the next best (nats), None where the provider gives none."""

    text: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    cut: bool = False
    withheld: bool = False
    other: bool = False
    margin: float | None = None


def said(document: Mapping[str, Any]) -> Said:
    """Read an answer of chat completions, Messages or Responses; what has another shape says nothing."""
    choices = document.get("choices")
    if isinstance(choices, list):
        return _chat(choices[0] if choices and isinstance(choices[0], dict) else {})
    output = document.get("output")
    if isinstance(output, list):
        return _responses(document, output)
    content = document.get("content")
    return _messages(document, content if isinstance(content, list) else [])


def _chat(choice: Mapping[str, Any]) -> Said:
    message = choice.get("message")
    message = message if isinstance(message, dict) else {}
    made = [call.get("function") for call in _dicts(message.get("tool_calls"))]
    finish = choice.get("finish_reason")
    refusal = message.get("refusal")
    return Said(
        text=_text(message.get("content")) or _text(refusal),
        calls=tuple((_text(one.get("name")), _arguments(one.get("arguments"))) for one in _dicts(made)),
        cut=_is(finish, _CUT),
        withheld=_is(finish, _WITHHELD) or bool(refusal),
        other=any(message.get(name) for name in ("function_call", "audio", "images"))
        or any("function" not in call for call in _dicts(message.get("tool_calls"))),
        margin=_margin(choice.get("logprobs")),
    )


def _messages(document: Mapping[str, Any], content: list[Any]) -> Said:
    blocks, finish = _dicts(content), document.get("stop_reason")
    return Said(
        text="\n".join(_text(block.get("text")) for block in blocks if block.get("type") == "text"),
        calls=tuple(
            (_text(block.get("name")), _arguments(block.get("input")))
            for block in blocks
            if block.get("type") == "tool_use"
        ),
        cut=_is(finish, _CUT),
        withheld=_is(finish, _WITHHELD),
        other=any(block.get("type") not in _SPOKEN_BLOCKS for block in blocks),
    )


def _responses(document: Mapping[str, Any], output: list[Any]) -> Said:
    items = _dicts(output)
    parts = [part for item in items if item.get("type") == "message" for part in _dicts(item.get("content"))]
    return Said(
        text="\n".join(_text(part.get("text")) or _text(part.get("refusal")) for part in parts),
        calls=tuple(
            (_text(item.get("name")), _arguments(item.get("arguments")))
            for item in items
            if item.get("type") == "function_call"
        ),
        cut=_is(document.get("status"), _CUT),
        withheld=any(part.get("type") == "refusal" for part in parts),
        other=any(item.get("type") not in _SPOKEN_ITEMS for item in items),
    )


def _margin(logprobs: Any) -> float | None:
    """OpenAI's `logprobs.content[].top_logprobs` (two or more asked for)."""
    tokens = logprobs.get("content") if isinstance(logprobs, dict) else None
    gaps = []
    for token in _dicts(tokens)[:_TOKENS_MAX]:
        best = sorted((one.get("logprob") for one in _dicts(token.get("top_logprobs"))), key=_number, reverse=True)[:2]
        if len(best) == 2:
            gaps.append(min(20.0, _number(best[0]) - _number(best[1])))
    return sum(gaps) / len(gaps) if gaps else None


def _is(value: Any, words: frozenset[str]) -> bool:
    return isinstance(value, str) and value in words


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else -20.0


def _arguments(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return ""


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
