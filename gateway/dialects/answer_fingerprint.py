"""Fingerprints of answers, which match the next request's history to its session."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

# Characters kept of an answer's first text and of its first call. The default suffices unless several callers sent the
# same request.
FINGERPRINT_CHARS_MAX, FINGERPRINT_CHARS_DEFAULT = 160, 64
# An unstreamed answer is at hand in full, so more costs nothing.
FINGERPRINT_CHARS_MAX_UNSTREAMED = 512


class AnswerFingerprint(NamedTuple):
    """The beginning of an answer; "" for what it lacks or was not recorded.

    text: its first characters
    call_id: id of its first tool call
    call: name and arguments of that call, without white space
    """

    text: str = ""
    call_id: str = ""
    call: str = ""


NO_FINGERPRINT = AnswerFingerprint()


def call_fingerprint(name: Any, arguments: Any) -> str:
    """Return the beginning of a call, independent of the white space in its arguments."""
    if isinstance(arguments, str):
        text = arguments
    else:
        text = json.dumps(arguments, default=str, ensure_ascii=False) if arguments is not None else ""
    text = text[: 2 * FINGERPRINT_CHARS_MAX_UNSTREAMED]
    return "".join(f"{name}{text}".split())[:FINGERPRINT_CHARS_MAX_UNSTREAMED]


def fingerprint_of(document: Mapping[str, Any]) -> AnswerFingerprint:
    """Return the fingerprint of an unstreamed answer, in any dialect."""
    choices = document.get("choices")
    if isinstance(choices, list):
        message = choices[0].get("message") if choices and isinstance(choices[0], dict) else None
        message = message if isinstance(message, dict) else {}
        calls = message.get("tool_calls")
        first_call = calls[0] if isinstance(calls, list) and calls and isinstance(calls[0], dict) else None
        function = first_call.get("function") if first_call is not None else None
        function = function if isinstance(function, dict) else {}
        call = call_fingerprint(function.get("name"), function.get("arguments")) if first_call is not None else ""
        return AnswerFingerprint(
            _text(message.get("content"))[:FINGERPRINT_CHARS_MAX_UNSTREAMED],
            _text(first_call.get("id")) if first_call else "",
            call,
        )
    blocks, text, call_id, call = document.get("content", document.get("output")), "", "", ""
    for block in blocks if isinstance(blocks, list) else ():
        kind = block.get("type") if isinstance(block, dict) else ""
        if kind == "text" and not text:
            text = _text(block.get("text"))
        elif kind == "message" and not text:
            parts = block.get("content")
            part = parts[0] if isinstance(parts, list) and parts else None
            text = _text(part.get("text")) if isinstance(part, dict) else ""
        elif kind == "tool_use" and not call:
            call_id, call = _text(block.get("id")), call_fingerprint(block.get("name"), block.get("input"))
        elif kind == "function_call" and not call:
            call_id, call = _text(block.get("call_id")), call_fingerprint(block.get("name"), block.get("arguments"))
    return AnswerFingerprint(text[:FINGERPRINT_CHARS_MAX_UNSTREAMED], call_id, call)


def tool_calls_of(document: Mapping[str, Any]) -> tuple[tuple[Any, Any, Any], ...]:
    """Return (id, name, arguments) of each call in an unstreamed Responses answer."""
    output = document.get("output")
    return tuple(
        (item.get("call_id"), item.get("name") or item.get("type"), item.get("arguments", item.get("input")))
        for item in (output if isinstance(output, list) else ())
        if isinstance(item, dict) and str(item.get("type")).endswith("_call")
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
