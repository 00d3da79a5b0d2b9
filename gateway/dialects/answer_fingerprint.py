"""How an answer begins, and the calls that it makes: by that the next request's history is known again."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

# So much of an answer's beginning is heard, of its words and of its first call; and so much by default, which is enough to
# know it by where nobody else asked the same.
FINGERPRINT_CHARS_MAX, FINGERPRINT_CHARS_DEFAULT = 160, 64
# Of what comes whole, more costs nothing.
FINGERPRINT_CHARS_MAX_UNSTREAMED = 512


class AnswerFingerprint(NamedTuple):
    """How an answer begins: its first words; the id of its first call; the tool that calls and what with, without
    spaces. "" for what there is not, or what was not heard."""

    text: str = ""
    call_id: str = ""
    call: str = ""


NO_FINGERPRINT = AnswerFingerprint()


def call_fingerprint(name: Any, arguments: Any) -> str:
    """How a call begins, whatever the spacing of its arguments."""
    if isinstance(arguments, str):
        told = arguments[: 2 * FINGERPRINT_CHARS_MAX_UNSTREAMED]
    else:
        told = json.dumps(arguments, default=str, ensure_ascii=False) if arguments is not None else ""
        told = told[: 2 * FINGERPRINT_CHARS_MAX_UNSTREAMED]
    return "".join(f"{name}{told}".split())[:FINGERPRINT_CHARS_MAX_UNSTREAMED]


def fingerprint_of(document: Mapping[str, Any]) -> AnswerFingerprint:
    """How a whole answer begins, in any dialect."""
    choices = document.get("choices")
    if isinstance(choices, list):
        message = choices[0].get("message") if choices and isinstance(choices[0], dict) else None
        message = message if isinstance(message, dict) else {}
        made = message.get("tool_calls")
        made = made[0] if isinstance(made, list) and made and isinstance(made[0], dict) else None
        function = made.get("function") if made is not None else None
        function = function if isinstance(function, dict) else {}
        call = call_fingerprint(function.get("name"), function.get("arguments")) if made is not None else ""
        return AnswerFingerprint(
            _text(message.get("content"))[:FINGERPRINT_CHARS_MAX_UNSTREAMED],
            _text(made.get("id")) if made else "",
            call,
        )
    blocks, text, call_id, call = document.get("content", document.get("output")), "", "", ""
    for block in blocks if isinstance(blocks, list) else ():
        kind = block.get("type") if isinstance(block, dict) else ""
        if kind == "text" and not text:
            text = _text(block.get("text"))
        elif kind == "message" and not text:
            parts = block.get("content")
            first = parts[0] if isinstance(parts, list) and parts else None
            text = _text(first.get("text")) if isinstance(first, dict) else ""
        elif kind == "tool_use" and not call:
            call_id, call = _text(block.get("id")), call_fingerprint(block.get("name"), block.get("input"))
        elif kind == "function_call" and not call:
            call_id, call = _text(block.get("call_id")), call_fingerprint(block.get("name"), block.get("arguments"))
    return AnswerFingerprint(text[:FINGERPRINT_CHARS_MAX_UNSTREAMED], call_id, call)


def tool_calls_of(document: Mapping[str, Any]) -> tuple[tuple[Any, Any, Any], ...]:
    """(id, name, arguments) of the calls of a whole answer in the Responses dialect."""
    output = document.get("output")
    return tuple(
        (item.get("call_id"), item.get("name") or item.get("type"), item.get("arguments", item.get("input")))
        for item in (output if isinstance(output, list) else ())
        if isinstance(item, dict) and str(item.get("type")).endswith("_call")
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
