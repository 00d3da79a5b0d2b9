"""The events of a streamed response: https://platform.openai.com/docs/api-reference/responses-streaming"""

import itertools
from collections.abc import Iterator
from typing import Any

from ..directives import CHARS_PER_TOKEN
from .base import Body, PacedEvent, sse_named, text_chunks

_TERMINAL_EVENTS = {"completed": "response.completed", "incomplete": "response.incomplete", "failed": "response.failed"}
# Arguments come in a few pieces, as from the real one.
_ARGUMENT_CHARS = 16

# How an item of each kind begins in a stream.
_EMPTY_ITEM_FIELDS: dict[str, Body] = {
    "reasoning": {"summary": []},
    "message": {"content": []},
    "function_call": {"arguments": ""},
    "custom_tool_call": {"input": ""},
}
# (type, fields, whether it carries a token), before numbering.
_UnnumberedEvent = tuple[str, Body, bool]


def events(opened: Body, output: list[Body], done: Body) -> Iterator[PacedEvent]:
    """From created to completed, numbered."""
    numbers = itertools.count()
    for kind, fields, token in _unnumbered_events(opened, output, done):
        yield sse_named({"type": kind, "sequence_number": next(numbers), **fields}), token


def _unnumbered_events(opened: Body, output: list[Body], done: Body) -> Iterator[_UnnumberedEvent]:
    yield "response.created", {"response": opened}, False
    yield "response.in_progress", {"response": opened}, False
    for index, item in enumerate(output):
        blank = _EMPTY_ITEM_FIELDS[item["type"]]
        status = {} if item["type"] == "reasoning" else {"status": "in_progress"}
        yield "response.output_item.added", {"output_index": index, "item": {**item, **blank, **status}}, False
        at = {"item_id": item["id"], "output_index": index}
        yield from _item_events(item, at)
        yield "response.output_item.done", {"output_index": index, "item": item}, False
    yield _TERMINAL_EVENTS[done["status"]], {"response": done}, False


def _item_events(item: Body, at: Body) -> Iterator[_UnnumberedEvent]:
    if item["type"] == "message":
        for place, part in enumerate(item["content"]):
            yield from _text_events({**at, "content_index": place}, part)
    elif item["type"] == "reasoning":
        for place, part in enumerate(item["summary"]):
            yield from _summary_events({**at, "summary_index": place}, part)
    elif item["type"] == "function_call":
        yield from _delta_events("response.function_call_arguments", at, item["arguments"], _ARGUMENT_CHARS)
        done = {**at, "name": item["name"], "arguments": item["arguments"]}
        yield "response.function_call_arguments.done", done, False
    else:
        yield from _delta_events("response.custom_tool_call_input", at, item["input"], _ARGUMENT_CHARS)
        yield "response.custom_tool_call_input.done", {**at, "input": item["input"]}, False


def _text_events(at: Body, part: Body) -> Iterator[_UnnumberedEvent]:
    yield "response.content_part.added", {**at, "part": {**part, "text": ""}}, False
    yield from _delta_events("response.output_text", at, part["text"], CHARS_PER_TOKEN, logprobs=[])
    yield "response.output_text.done", {**at, "text": part["text"], "logprobs": []}, False
    yield "response.content_part.done", {**at, "part": part}, False


def _summary_events(at: Body, part: Body) -> Iterator[_UnnumberedEvent]:
    yield "response.reasoning_summary_part.added", {**at, "part": {**part, "text": ""}}, False
    yield from _delta_events("response.reasoning_summary_text", at, part["text"], CHARS_PER_TOKEN)
    yield "response.reasoning_summary_text.done", {**at, "text": part["text"]}, False
    yield "response.reasoning_summary_part.done", {**at, "part": part}, False


def _delta_events(kind: str, at: Body, text: str, length: int, **more: Any) -> Iterator[_UnnumberedEvent]:
    for piece in text_chunks(text, length):
        yield f"{kind}.delta", {**at, "delta": piece, **more}, True
