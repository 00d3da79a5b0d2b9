"""The events of a streamed response: https://platform.openai.com/docs/api-reference/responses-streaming"""

import itertools
from collections.abc import Iterator
from typing import Any

from ..directives import CHARS_PER_TOKEN
from .base import Body, Event, named, pieces

_ENDINGS = {"completed": "response.completed", "incomplete": "response.incomplete", "failed": "response.failed"}
# Arguments come in a few pieces, as from the real one.
_ARGUMENT_CHARS = 16

# How an item of each kind begins in a stream.
_EMPTY: dict[str, Body] = {
    "reasoning": {"summary": []},
    "message": {"content": []},
    "function_call": {"arguments": ""},
    "custom_tool_call": {"input": ""},
}
# (type, fields, whether it carries a token), before numbering.
_Step = tuple[str, Body, bool]


def events(opened: Body, output: list[Body], done: Body) -> Iterator[Event]:
    """From created to completed, numbered."""
    numbers = itertools.count()
    for kind, fields, token in _steps(opened, output, done):
        yield named({"type": kind, "sequence_number": next(numbers), **fields}), token


def _steps(opened: Body, output: list[Body], done: Body) -> Iterator[_Step]:
    yield "response.created", {"response": opened}, False
    yield "response.in_progress", {"response": opened}, False
    for index, item in enumerate(output):
        blank = _EMPTY[item["type"]]
        status = {} if item["type"] == "reasoning" else {"status": "in_progress"}
        yield "response.output_item.added", {"output_index": index, "item": {**item, **blank, **status}}, False
        at = {"item_id": item["id"], "output_index": index}
        yield from _inside(item, at)
        yield "response.output_item.done", {"output_index": index, "item": item}, False
    yield _ENDINGS[done["status"]], {"response": done}, False


def _inside(item: Body, at: Body) -> Iterator[_Step]:
    if item["type"] == "message":
        for place, part in enumerate(item["content"]):
            yield from _text({**at, "content_index": place}, part)
    elif item["type"] == "reasoning":
        for place, part in enumerate(item["summary"]):
            yield from _summary({**at, "summary_index": place}, part)
    elif item["type"] == "function_call":
        yield from _pieces("response.function_call_arguments", at, item["arguments"], _ARGUMENT_CHARS)
        done = {**at, "name": item["name"], "arguments": item["arguments"]}
        yield "response.function_call_arguments.done", done, False
    else:
        yield from _pieces("response.custom_tool_call_input", at, item["input"], _ARGUMENT_CHARS)
        yield "response.custom_tool_call_input.done", {**at, "input": item["input"]}, False


def _text(at: Body, part: Body) -> Iterator[_Step]:
    yield "response.content_part.added", {**at, "part": {**part, "text": ""}}, False
    yield from _pieces("response.output_text", at, part["text"], CHARS_PER_TOKEN, logprobs=[])
    yield "response.output_text.done", {**at, "text": part["text"], "logprobs": []}, False
    yield "response.content_part.done", {**at, "part": part}, False


def _summary(at: Body, part: Body) -> Iterator[_Step]:
    yield "response.reasoning_summary_part.added", {**at, "part": {**part, "text": ""}}, False
    yield from _pieces("response.reasoning_summary_text", at, part["text"], CHARS_PER_TOKEN)
    yield "response.reasoning_summary_text.done", {**at, "text": part["text"]}, False
    yield "response.reasoning_summary_part.done", {**at, "part": part}, False


def _pieces(kind: str, at: Body, text: str, length: int, **more: Any) -> Iterator[_Step]:
    for piece in pieces(text, length):
        yield f"{kind}.delta", {**at, "delta": piece, **more}, True
