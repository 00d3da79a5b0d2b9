"""Builds a final answer in the model's place, for clients that crash on errors.

Text without tool calls, which ends the agent's run; whole or streamed, in each dialect. The text names the gateway as
its author, and headers mark the response (pipeline/stop_response.py).
"""

from collections.abc import Mapping
from typing import Any

import orjson

from .sse import encode_event

_JSON_HEADERS, _SSE_HEADERS = {"content-type": "application/json"}, {"content-type": "text/event-stream; charset=utf-8"}


def final_answer(
    dialect: str, text: str, *, id: str, model: str, created: int, stream: bool
) -> tuple[Mapping[str, str], bytes]:
    """Return (headers, body) of the answer; `created` is in seconds since the epoch."""
    if dialect == "messages":
        answer = _messages_answer(id, model, text)
        return (_SSE_HEADERS, _messages_events(answer, text)) if stream else (_JSON_HEADERS, orjson.dumps(answer))
    if dialect == "responses":
        answer = _responses_answer(id, model, text, created)
        return (_SSE_HEADERS, _responses_events(answer)) if stream else (_JSON_HEADERS, orjson.dumps(answer))
    chunk = {"id": f"chatcmpl-{id}", "created": created, "model": model}
    if not stream:
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        return _JSON_HEADERS, orjson.dumps({**chunk, "object": "chat.completion", "choices": [choice], "usage": usage})
    deltas: list[tuple[dict[str, Any], str | None]] = [({"role": "assistant", "content": text}, None), ({}, "stop")]
    chunks = [
        {**chunk, "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
        for delta, reason in deltas
    ]
    return _SSE_HEADERS, b"".join(map(encode_event, chunks)) + b"data: [DONE]\n\n"


def _messages_answer(id: str, model: str, text: str) -> dict[str, Any]:
    return {
        "id": f"msg_{id}", "type": "message", "role": "assistant", "model": model,
        "content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "stop_sequence": None,
        "usage": {"input_tokens": 0, "output_tokens": 0},
    }  # fmt: skip


def _messages_events(answer: dict[str, Any], text: str) -> bytes:
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**answer, "content": [], "stop_reason": None}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": answer["usage"],
        },
        {"type": "message_stop"},
    ]
    return b"".join(encode_event(event, named=True) for event in events)


def _responses_answer(id: str, model: str, text: str, created: int) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": []}
    item = {"id": f"msg_{id}", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
    return {
        "id": f"resp_{id}", "object": "response", "created_at": created, "status": "completed", "model": model,
        "output": [item], "error": None, "incomplete_details": None, "instructions": None, "metadata": {},
        "parallel_tool_calls": True, "temperature": None, "tool_choice": "auto", "tools": [], "top_p": None,
        "usage": {
            "input_tokens": 0, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 0,
        },
    }  # fmt: skip


def _responses_events(answer: dict[str, Any]) -> bytes:
    item = answer["output"][0]
    part = item["content"][0]
    position = {"item_id": item["id"], "output_index": 0}
    in_progress = {**answer, "status": "in_progress", "output": [], "usage": None}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": in_progress},
        {"type": "response.in_progress", "response": in_progress},
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": {**item, "status": "in_progress", "content": []},
        },
        {"type": "response.content_part.added", **position, "content_index": 0, "part": {**part, "text": ""}},
        {"type": "response.output_text.delta", **position, "content_index": 0, "delta": part["text"], "logprobs": []},
        {"type": "response.output_text.done", **position, "content_index": 0, "text": part["text"], "logprobs": []},
        {"type": "response.content_part.done", **position, "content_index": 0, "part": part},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": answer},
    ]
    numbered = [{**event, "sequence_number": number} for number, event in enumerate(events)]
    return b"".join(encode_event(event, named=True) for event in numbered)
