"""Edits a request to steer an agent: appends a note to the newest turn, forbids tools.

The note is never put into the instructions, so that the provider's prompt cache stays valid up to the newest turn.
Pure; documents are in the upstream dialect.
"""

from typing import Any

# Responses call outputs that are text; others hold images or structured shell output.
_TEXT_OUTPUTS = ("function_call_output", "custom_tool_call_output")


def append_note(document: dict[str, Any], upstream_dialect: str, note: str) -> dict[str, Any]:
    """Return the request with a note on its newest tool result or user turn; unchanged without one."""
    name = "input" if upstream_dialect == "responses" else "messages"
    turns = document.get(name)
    if isinstance(turns, str):
        return {**document, name: f"{turns}\n\n{note}"}
    if not isinstance(turns, list):
        return document
    newest = turns[-1] if turns else None
    if upstream_dialect == "responses" and isinstance(newest, dict) and _is_non_text_output(newest):
        # Not text, so the note becomes a turn of its own.
        return {**document, name: [*turns, {"role": "user", "content": note}]}
    for index in range(len(turns) - 1, -1, -1):
        turn = turns[index]
        noted_turn = _turn_with_note(turn, upstream_dialect, note) if isinstance(turn, dict) else None
        if noted_turn is not None:
            return {**document, name: [*turns[:index], noted_turn, *turns[index + 1 :]]}
    return document


def _is_non_text_output(item: dict[str, Any]) -> bool:
    kind = item.get("type")
    return isinstance(kind, str) and kind.endswith("_output") and kind not in _TEXT_OUTPUTS


def forbid_tools(document: dict[str, Any], upstream_dialect: str) -> dict[str, Any]:
    """Return the request with calls forbidden; its tools stay, for the history and the prompt cache refer to them."""
    if upstream_dialect == "chat" and document.get("functions"):
        return {**document, "function_call": "none"}
    if not document.get("tools"):
        return document
    return {**document, "tool_choice": {"type": "none"} if upstream_dialect == "messages" else "none"}


def _turn_with_note(turn: dict[str, Any], upstream_dialect: str, note: str) -> dict[str, Any] | None:
    """The turn with the note in it; None if it is no tool result or user turn."""
    kind = turn.get("type")
    if upstream_dialect == "responses" and kind in _TEXT_OUTPUTS:
        return {**turn, "output": _append_text(turn.get("output"), note, "input_text")}
    if turn.get("role") not in ("tool", "user") or (upstream_dialect == "responses" and kind not in (None, "message")):
        return None
    content = turn.get("content")
    if upstream_dialect == "messages" and isinstance(content, list) and content and _is_tool_result(content[-1]):
        result = {**content[-1], "content": _append_text(content[-1].get("content"), note, "text")}
        return {**turn, "content": [*content[:-1], result]}
    return {**turn, "content": _append_text(content, note, "input_text" if upstream_dialect == "responses" else "text")}


def _is_tool_result(block: Any) -> bool:
    return isinstance(block, dict) and block.get("type") == "tool_result"


def _append_text(content: Any, note: str, kind: str) -> Any:
    if isinstance(content, list):
        return [*content, {"type": kind, "text": note}]
    return f"{content}\n\n{note}" if isinstance(content, str) and content else note
