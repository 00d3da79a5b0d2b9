"""Streams missing from the recordings: several choices, interleaving, citations, refusals, provider-run calls."""

from collections.abc import Iterable
from typing import Any

from gateway.dialects import sse

DONE = b"data: [DONE]\n\n"


def encode_stream(events: Iterable[dict[str, Any]], *, named: bool) -> bytes:
    return b"".join(sse.encode_event(event, named=named) for event in events)


def chat_chunk(index: int, reason: str | None = None, **delta: Any) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "finish_reason": reason}
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 7, "model": "m", "system_fingerprint": "fp_1"}
    return {**head, "choices": [choice], "usage": None}


def completion_chunk(index: int, text: str, reason: str | None = None) -> dict[str, Any]:
    choice = {"index": index, "text": text, "logprobs": None, "finish_reason": reason}
    return {"id": "c1", "object": "text_completion", "created": 7, "model": "m", "choices": [choice]}


def response_event(kind: str, status: str) -> dict[str, Any]:
    return {"type": kind, "response": {"id": "resp_1", "object": "response", "created_at": 7, "model": "m", "status": status, "error": None, "output": [], "incomplete_details": None, "usage": None}}  # fmt: skip


def numbered_events(events: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events with full type names and sequence numbers."""
    return [
        {"sequence_number": number, **event, "type": f"response.{event['type'].removeprefix('response.')}"}
        for number, event in enumerate(events)
    ]


USAGE_CHUNK = {"id": "c1", "object": "chat.completion.chunk", "created": 7, "model": "m", "choices": []}
SEVERAL_CHOICES = [
    chat_chunk(0, role="assistant", content=""),
    chat_chunk(1, role="assistant", content="eins"),
    chat_chunk(2, role="assistant", content="zwei"),
    chat_chunk(1, "stop"),
    chat_chunk(0, content="null"),
    chat_chunk(2, "stop"),
    chat_chunk(0, "stop"),
    {**USAGE_CHUNK, "usage": {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}},
]
SEVERAL_PROMPTS = [
    completion_chunk(0, "a"),
    completion_chunk(1, "b"),
    completion_chunk(0, "", "stop"),
    completion_chunk(1, "c"),
    completion_chunk(1, "", "length"),
]
AZURE_CHUNKS: list[dict[str, Any]] = [
    {**USAGE_CHUNK, "id": "", "model": "", "prompt_filter_results": []},
    chat_chunk(0, content="a"),
    chat_chunk(0, content="b"),
]
MESSAGE_START = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "usage": {"input_tokens": 3}}
TOOL_USE_BLOCK = {"type": "tool_use", "id": "t", "name": "look_up", "input": {}}
INTERLEAVED_TOOLS: list[dict[str, Any]] = [
    {"type": "message_start", "message": MESSAGE_START},
    {"type": "content_block_start", "index": 0, "content_block": {**TOOL_USE_BLOCK, "id": "t0"}},
    {"type": "content_block_start", "index": 1, "content_block": {**TOOL_USE_BLOCK, "id": "t1"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": "{}"}},
    {"type": "content_block_stop", "index": 1},
    {"type": "content_block_stop", "index": 0},
]
CITATION = {"type": "url_citation", "url": "http://x", "title": "x", "start_index": 4, "end_index": 7}
MANY_ITEMS = numbered_events(
    [
        response_event("created", "in_progress"),
        {"type": "output_item.added", "output_index": 0, "item": {"id": "rs_1", "type": "reasoning", "summary": [], "content": []}},
        {"type": "content_part.added", "item_id": "rs_1", "output_index": 0, "content_index": 0, "part": {"type": "reasoning_text", "text": ""}},
        {"type": "reasoning_text.delta", "item_id": "rs_1", "output_index": 0, "content_index": 0, "delta": "so, "},
        {"type": "reasoning_text.delta", "item_id": "rs_1", "output_index": 0, "content_index": 0, "delta": "hm"},
        {"type": "output_item.added", "output_index": 1, "item": {"id": "ws_1", "type": "web_search_call", "status": "in_progress"}},
        {"type": "web_search_call.searching", "item_id": "ws_1", "output_index": 1},
        {"type": "output_item.added", "output_index": 2, "item": {"id": "msg_1", "type": "message", "status": "in_progress", "role": "assistant", "content": []}},
        {"type": "content_part.added", "item_id": "msg_1", "output_index": 2, "content_index": 0, "part": {"type": "output_text", "text": "", "annotations": [], "logprobs": []}},
        {"type": "output_text.delta", "item_id": "msg_1", "output_index": 2, "content_index": 0, "delta": "see [1]", "logprobs": []},
        {"type": "output_text.annotation.added", "item_id": "msg_1", "output_index": 2, "content_index": 0, "annotation_index": 0, "annotation": CITATION},
        {"type": "output_text.done", "item_id": "msg_1", "output_index": 2, "content_index": 0, "text": "see [1]", "logprobs": []},
        {"type": "content_part.done", "item_id": "msg_1", "output_index": 2, "content_index": 0, "part": {"type": "output_text", "text": "see [1]", "annotations": [CITATION], "logprobs": []}},
        {"type": "content_part.added", "item_id": "msg_1", "output_index": 2, "content_index": 1, "part": {"type": "refusal", "refusal": ""}},
        {"type": "refusal.delta", "item_id": "msg_1", "output_index": 2, "content_index": 1, "delta": "no "},
        {"type": "refusal.delta", "item_id": "msg_1", "output_index": 2, "content_index": 1, "delta": "more"},
        {"type": "output_item.added", "output_index": 3, "item": {"id": "ctc_1", "type": "custom_tool_call", "status": "in_progress", "call_id": "c", "name": "patch", "input": ""}},
        {"type": "custom_tool_call_input.delta", "item_id": "ctc_1", "output_index": 3, "delta": "*** Begin"},
        {"type": "custom_tool_call_input.delta", "item_id": "ctc_1", "output_index": 3, "delta": " Patch"},
        {"type": "custom_tool_call_input.done", "item_id": "ctc_1", "output_index": 3, "input": "*** Begin Patch"},
    ]
)  # fmt: skip
USAGE_WITH_FINISH: list[dict[str, Any]] = [
    chat_chunk(0, content="a"),
    {**chat_chunk(0, "stop"), "usage": SEVERAL_CHOICES[-1]["usage"]},
]
SYNTHETIC_STREAMS = {
    "several choices": encode_stream(SEVERAL_CHOICES, named=False) + DONE,
    "several prompts": encode_stream(SEVERAL_PROMPTS, named=False) + DONE,
    "a chunk without choices first": encode_stream(AZURE_CHUNKS, named=False) + DONE,
    "usage beside the reason": encode_stream(USAGE_WITH_FINISH, named=False) + DONE,
    "interleaved tools": encode_stream(INTERLEAVED_TOOLS, named=True),
    "many items": encode_stream(MANY_ITEMS, named=True),
}
