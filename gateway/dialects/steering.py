"""What the gateway adds to a request to steer an agent: a note beside the newest turn, tools withheld.

The note goes where the model reads its newest result, never into the instructions, so that the provider's prompt cache
stays warm up to there. Pure; documents are those of the dialect that is spoken to the provider.
"""

from typing import Any

# Results of Responses calls that are text; others hold pictures, or what a shell said.
_TEXT_OUTPUTS = ("function_call_output", "custom_tool_call_output")


def append_note(document: dict[str, Any], speech: str, note: str) -> dict[str, Any]:
    """The request with a note appended to its newest tool result or user turn; as it is where there is none."""
    name = "input" if speech == "responses" else "messages"
    turns = document.get(name)
    if isinstance(turns, str):
        return {**document, name: f"{turns}\n\n{note}"}
    if not isinstance(turns, list):
        return document
    newest = turns[-1] if turns else None
    if speech == "responses" and isinstance(newest, dict) and _is_non_text_output(newest):
        # What these hold is no text: the note stands beside it.
        return {**document, name: [*turns, {"role": "user", "content": note}]}
    for place in range(len(turns) - 1, -1, -1):
        turn = turns[place]
        told = _turn_with_note(turn, speech, note) if isinstance(turn, dict) else None
        if told is not None:
            return {**document, name: [*turns[:place], told, *turns[place + 1 :]]}
    return document


def _is_non_text_output(item: dict[str, Any]) -> bool:
    kind = item.get("type")
    return isinstance(kind, str) and kind.endswith("_output") and kind not in _TEXT_OUTPUTS


def forbid_tools(document: dict[str, Any], speech: str) -> dict[str, Any]:
    """The request with its tools withheld: they stay in it, because the history speaks of them and the cache knows them."""
    if speech == "chat" and document.get("functions"):
        return {**document, "function_call": "none"}
    if not document.get("tools"):
        return document
    return {**document, "tool_choice": {"type": "none"} if speech == "messages" else "none"}


def _turn_with_note(turn: dict[str, Any], speech: str, note: str) -> dict[str, Any] | None:
    """The turn with the note in it; None where it is not one that the model is told something by."""
    kind = turn.get("type")
    if speech == "responses" and kind in _TEXT_OUTPUTS:
        return {**turn, "output": _append_text(turn.get("output"), note, "input_text")}
    if turn.get("role") not in ("tool", "user") or (speech == "responses" and kind not in (None, "message")):
        return None
    content = turn.get("content")
    if speech == "messages" and isinstance(content, list) and content and _is_tool_result(content[-1]):
        result = {**content[-1], "content": _append_text(content[-1].get("content"), note, "text")}
        return {**turn, "content": [*content[:-1], result]}
    return {**turn, "content": _append_text(content, note, "input_text" if speech == "responses" else "text")}


def _is_tool_result(block: Any) -> bool:
    return isinstance(block, dict) and block.get("type") == "tool_result"


def _append_text(content: Any, note: str, kind: str) -> Any:
    if isinstance(content, list):
        return [*content, {"type": kind, "text": note}]
    return f"{content}\n\n{note}" if isinstance(content, str) and content else note
