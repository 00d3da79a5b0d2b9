"""How an answer begins, and the calls that it makes: by that the next request's history is known again."""

from collections.abc import Mapping
from typing import Any


def beginning(document: Mapping[str, Any]) -> tuple[str, str]:
    """(its first words, the id of its first call) of a whole answer in any dialect; "" for what it does not have."""
    choices = document.get("choices")
    if isinstance(choices, list):
        message = choices[0].get("message") if choices and isinstance(choices[0], dict) else None
        message = message if isinstance(message, dict) else {}
        calls = message.get("tool_calls")
        call = calls[0].get("id") if isinstance(calls, list) and calls and isinstance(calls[0], dict) else ""
        return _text(message.get("content")), _text(call)
    blocks, text, call = document.get("content", document.get("output")), "", ""
    for block in blocks if isinstance(blocks, list) else ():
        kind = block.get("type") if isinstance(block, dict) else ""
        if kind == "text" and not text:
            text = _text(block.get("text"))
        elif kind == "message" and not text:
            parts = block.get("content")
            first = parts[0] if isinstance(parts, list) and parts else None
            text = _text(first.get("text")) if isinstance(first, dict) else ""
        elif kind == "tool_use" and not call:
            call = _text(block.get("id"))
        elif kind == "function_call" and not call:
            call = _text(block.get("call_id"))
    return text, call


def calls(document: Mapping[str, Any]) -> tuple[tuple[Any, Any, Any], ...]:
    """(id, name, arguments) of the calls of a whole answer in the Responses dialect."""
    output = document.get("output")
    return tuple(
        (item.get("call_id"), item.get("name") or item.get("type"), item.get("arguments", item.get("input")))
        for item in (output if isinstance(output, list) else ())
        if isinstance(item, dict) and str(item.get("type")).endswith("_call")
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
