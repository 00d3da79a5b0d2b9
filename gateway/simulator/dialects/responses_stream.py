"""The events of a streamed response.

https://platform.openai.com/docs/api-reference/responses-streaming
"""

import itertools
from collections.abc import Iterator
from typing import Any

from ..directives import CHARS_PER_TOKEN
from .base import Body, PacedEvent, sse_named, text_chunks

_TERMINAL_EVENTS = {"completed": "response.completed", "incomplete": "response.incomplete", "failed": "response.failed"}
# Arguments come in a few chunks, as from the real API.
_ARGUMENT_CHARS = 16

# Fields with which an item of each type starts in a stream.
_EMPTY_ITEM_FIELDS: dict[str, Body] = {
    "reasoning": {"summary": []},
    "message": {"content": []},
    "function_call": {"arguments": ""},
    "custom_tool_call": {"input": ""},
    "web_search_call": {},
}
# (type, fields, whether it carries a token), before numbering.
_UnnumberedEvent = tuple[str, Body, bool]


def events(started: Body, output: list[Body], completed: Body, queued: Body | None = None) -> Iterator[PacedEvent]:
    """Numbered events from response.created to the terminal one; a background response is `queued` at first."""
    numbers = itertools.count()
    for kind, fields, token in _unnumbered_events(started, output, completed, queued):
        yield sse_named({"type": kind, "sequence_number": next(numbers), **fields}), token


def _unnumbered_events(
    started: Body, output: list[Body], completed: Body, queued: Body | None
) -> Iterator[_UnnumberedEvent]:
    yield "response.created", {"response": queued or started}, False
    if queued is not None:
        yield "response.queued", {"response": queued}, False
    yield "response.in_progress", {"response": started}, False
    for index, item in enumerate(output):
        empty_fields = _EMPTY_ITEM_FIELDS[item["type"]]
        status = {} if item["type"] == "reasoning" else {"status": "in_progress"}
        yield "response.output_item.added", {"output_index": index, "item": {**item, **empty_fields, **status}}, False
        position = {"item_id": item["id"], "output_index": index}
        yield from _item_events(item, position)
        yield "response.output_item.done", {"output_index": index, "item": item}, False
    yield _TERMINAL_EVENTS[completed["status"]], {"response": completed}, False


def _item_events(item: Body, position: Body) -> Iterator[_UnnumberedEvent]:
    if item["type"] == "message":
        for index, part in enumerate(item["content"]):
            yield from _text_events({**position, "content_index": index}, part)
    elif item["type"] == "reasoning":
        for index, part in enumerate(item["summary"]):
            yield from _summary_events({**position, "summary_index": index}, part)
    elif item["type"] == "web_search_call":
        for phase in ("in_progress", "searching", "completed"):
            yield f"response.web_search_call.{phase}", position, False
    elif item["type"] == "function_call":
        yield from _delta_events("response.function_call_arguments", position, item["arguments"], _ARGUMENT_CHARS)
        done = {**position, "name": item["name"], "arguments": item["arguments"]}
        yield "response.function_call_arguments.done", done, False
    else:
        yield from _delta_events("response.custom_tool_call_input", position, item["input"], _ARGUMENT_CHARS)
        yield "response.custom_tool_call_input.done", {**position, "input": item["input"]}, False


def _text_events(position: Body, part: Body) -> Iterator[_UnnumberedEvent]:
    yield "response.content_part.added", {**position, "part": {**part, "text": ""}}, False
    yield from _delta_events("response.output_text", position, part["text"], CHARS_PER_TOKEN, logprobs=[])
    yield "response.output_text.done", {**position, "text": part["text"], "logprobs": []}, False
    yield "response.content_part.done", {**position, "part": part}, False


def _summary_events(position: Body, part: Body) -> Iterator[_UnnumberedEvent]:
    yield "response.reasoning_summary_part.added", {**position, "part": {**part, "text": ""}}, False
    yield from _delta_events("response.reasoning_summary_text", position, part["text"], CHARS_PER_TOKEN)
    yield "response.reasoning_summary_text.done", {**position, "text": part["text"]}, False
    yield "response.reasoning_summary_part.done", {**position, "part": part}, False


def _delta_events(kind: str, position: Body, text: str, length: int, **extra: Any) -> Iterator[_UnnumberedEvent]:
    for chunk in text_chunks(text, length):
        yield f"{kind}.delta", {**position, "delta": chunk, **extra}, True
