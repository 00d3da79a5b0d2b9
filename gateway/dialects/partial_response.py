"""Rebuilds a response from its events, to end the stream as OpenAI does at the output limit.

It keeps what the last event repeats: the items that are done, and the open ones with their parts and texts.
"""

from collections.abc import Iterator
from typing import Any

# Parts by the name of their events: the item's list that holds them, and the field with their index in it.
_PARTS = {
    "content_part": ("content", "content_index"),
    "reasoning_summary_part": ("summary", "summary_index"),
}
# Texts within parts by the name of their events: the events of the part, its type, and its field for the text.
_TEXTS = {
    "output_text": ("content_part", "output_text", "text"),
    "refusal": ("content_part", "refusal", "refusal"),
    "reasoning_text": ("content_part", "reasoning_text", "text"),
    "reasoning_summary_text": ("reasoning_summary_part", "summary_text", "text"),
}
_TEXT_OF = {kind: (name, field) for name, (_, kind, field) in _TEXTS.items()}
# Texts of calls by the name of their events: the item's field for the text.
_CALL_TEXT_FIELDS = {
    "function_call_arguments": "arguments",
    "mcp_call_arguments": "arguments",
    "custom_tool_call_input": "input",
    "code_interpreter_call_code": "code",
}
# Items that are closed when they are cut off. Calls are not: clients run what is reported as done whatever its status,
# and the AI SDK has no call that is done but not completed (github.com/vercel/ai/pull/20405).
_CLOSABLE_ITEMS = ("message", "reasoning")


class _PartialPart:
    """A part of an item.

    document: the part as first or last sent
    text: pieces of its text so far
    text_done, done: whether the end of its text, and of the part, was seen
    """

    __slots__ = ("document", "done", "text", "text_done")

    def __init__(self, part: dict[str, Any]) -> None:
        self.document = part
        self.text: list[str] = []
        self.text_done = False
        self.done = False

    def to_document(self) -> dict[str, Any]:
        """Return the part with its text so far."""
        _, field = _TEXT_OF.get(str(self.document.get("type")), ("", ""))
        return {**self.document, field: "".join(self.text)} if field and self.text else self.document

    def closing_events(self, name: str, position: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the events that close the part."""
        part = self.to_document()
        text, field = _TEXT_OF.get(str(part.get("type")), ("", ""))
        if text and not self.text_done:
            event = {"type": f"response.{text}.done", **position, field: part.get(field) or ""}
            yield {**event, "logprobs": []} if text == "output_text" else event
        if not self.done:
            yield {"type": f"response.{name}.done", **position, "part": part}


class _PartialItem:
    """An open item; its parts are keyed by the name of their events and their index."""

    __slots__ = ("_call_text", "_item", "_parts")

    def __init__(self, item: dict[str, Any]) -> None:
        self._item = item
        self._parts: dict[tuple[str, int], _PartialPart] = {}
        # A call's arguments or input: the field and pieces of its text.
        self._call_text: tuple[str, list[str]] = ("", [])

    def read(self, name: str, phase: str, payload: dict[str, Any]) -> None:
        """Apply an event of this item."""
        if name in _PARTS:
            self._read_part(name, phase, payload)
        elif name in _TEXTS:
            self._read_text(name, phase, payload)
        elif name in _CALL_TEXT_FIELDS:
            self._read_call(_CALL_TEXT_FIELDS[name], phase, payload)
        elif name == "output_text.annotation" and (part := self._parts.get(_part_key("content_part", payload))):
            annotations = part.document.get("annotations") or []
            part.document = {**part.document, "annotations": [*annotations, payload.get("annotation")]}

    def _read_part(self, name: str, phase: str, payload: dict[str, Any]) -> None:
        document = payload.get("part")
        if isinstance(document, dict):
            part = self._parts[_part_key(name, payload)] = _PartialPart(document)
            part.text_done = part.done = phase == "done"

    def _read_text(self, name: str, phase: str, payload: dict[str, Any]) -> None:
        part_name, kind, field = _TEXTS[name]
        part = self._parts.get(_part_key(part_name, payload))
        if part is None:
            part = self._parts[_part_key(part_name, payload)] = _PartialPart({"type": kind, field: ""})
        part.text_done = phase == "done"
        _append_text(part.text, phase, payload, field)

    def _read_call(self, field: str, phase: str, payload: dict[str, Any]) -> None:
        if self._call_text[0] != field:
            self._call_text = (field, [])
        _append_text(self._call_text[1], phase, payload, field)

    def to_document(self) -> dict[str, Any]:
        """Return the item so far; one without a status, as OpenAI's reasoning, gets none."""
        item = dict(self._item)
        for name, (field, _) in _PARTS.items():
            parts = [
                part.to_document()
                for (part_name, _), part in sorted(self._parts.items(), key=_part_order)
                if part_name == name
            ]
            item |= {field: parts} if parts else {}
        field, text = self._call_text
        item |= {field: "".join(text)} if text else {}
        return {**item, "status": "incomplete"} if "status" in item else item

    def closing_events(self, index: int) -> Iterator[dict[str, Any]]:
        """Yield the events that close the item, if its type is closable."""
        if self._item.get("type") not in _CLOSABLE_ITEMS:
            return
        for (name, part_index), part in sorted(self._parts.items(), key=_part_order):
            position = {"item_id": self._item.get("id"), "output_index": index, _PARTS[name][1]: part_index}
            yield from part.closing_events(name, position)
        yield {"type": "response.output_item.done", "output_index": index, "item": self.to_document()}


class PartialResponse:
    """Reads one stream event by event; events of a shape OpenAI does not use are ignored."""

    __slots__ = ("_done_items", "_open_items", "_response", "_sequence_number")

    def __init__(self) -> None:
        self._response: dict[str, Any] | None = None
        # The newest sequence number; items by their index in the output.
        self._sequence_number = -1
        self._open_items: dict[int, _PartialItem] = {}
        self._done_items: dict[int, dict[str, Any]] = {}

    def read(self, payload: dict[str, Any]) -> None:
        """Apply one event."""
        number, index, response = (payload.get(name) for name in ("sequence_number", "output_index", "response"))
        self._sequence_number = number if isinstance(number, int) else self._sequence_number + 1
        if isinstance(response, dict):
            self._response = response
        if not isinstance(index, int):
            return
        name, _, phase = str(payload.get("type")).removeprefix("response.").rpartition(".")
        item = payload.get("item")
        if name == "output_item" and isinstance(item, dict):
            self._read_item(index, phase, item)
        elif index in self._open_items:
            self._open_items[index].read(name, phase, payload)

    def _read_item(self, index: int, phase: str, item: dict[str, Any]) -> None:
        if phase == "added":
            self._open_items[index] = _PartialItem(item)
        else:
            self._open_items.pop(index, None)
            self._done_items[index] = item

    def closing_events(self, usage: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the events that end the response at its output limit; none if it has not begun."""
        if self._response is None:
            return
        events = [event for index, item in sorted(self._open_items.items()) for event in item.closing_events(index)]
        events.append({"type": "response.incomplete", "response": self._incomplete_response(self._response, usage)})
        for number, event in enumerate(events, self._sequence_number + 1):
            yield {"type": event["type"], "sequence_number": number, **event}

    def _incomplete_response(self, response: dict[str, Any], usage: dict[str, Any]) -> dict[str, Any]:
        output = self._done_items | {index: item.to_document() for index, item in self._open_items.items()}
        return {
            **response,
            "status": "incomplete",
            "incomplete_details": {"reason": "max_output_tokens"},
            "output": [output[index] for index in sorted(output)],
            "usage": usage,
        }


def _part_key(name: str, payload: dict[str, Any]) -> tuple[str, int]:
    index = payload.get(_PARTS[name][1])
    return name, index if isinstance(index, int) else 0


def _part_order(entry: tuple[tuple[str, int], _PartialPart]) -> tuple[str, int]:
    return entry[0]


def _append_text(text: list[str], phase: str, payload: dict[str, Any], field: str) -> None:
    """Add a piece of a text, or replace it by the whole that its last event repeats."""
    piece = payload.get("delta" if phase == "delta" else field)
    if not isinstance(piece, str):
        return
    if phase != "delta":
        text.clear()
    text.append(piece)
