"""Answers under status 200 that are failures, whole and streamed, in each dialect."""

import json
from typing import Any

import pytest

from gateway.dialects import DIALECTS, PARSERS
from gateway.dialects.sse import StreamMeter

CHOICE = {"index": 0, "message": {"role": "assistant", "content": "words"}, "finish_reason": "stop"}
ERROR = {"message": "Provider returned error", "code": 429}

# OpenRouter ("Errors and debugging"), vLLM (ErrorResponse), Anthropic (errors), OpenAI (Responses object), Google and
# FastAPI error shapes; read in November 2026.
FAILURES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "an error object": ("chat", {"error": ERROR, "user_id": "u"}, {"error": ERROR}),
    "an error name and its words": ("chat", {"error": "overloaded", "message": "m"}, {"error": {"error": "overloaded", "message": "m"}}),
    "an error beside choices": ("chat", {"error": ERROR, "choices": [CHOICE]}, {"error": ERROR}),
    "vLLM's error": ("chat", {"object": "error", "message": "m"}, {"error": {"object": "error", "message": "m"}}),
    "choices that are null": ("chat", {"id": "c", "choices": None}, {"id": "c", "choices": None}),
    "no choice": ("chat", {"choices": []}, {"choices": []}),
    "a choice without a message": ("chat", {"choices": [{"index": 0, "message": None}]}, {"choices": [{"index": 0, "message": None}]}),
    "an empty object": ("chat", {}, {}),
    "words in detail": ("chat", {"detail": "no worker"}, {"detail": "no worker"}),
    "a choice that failed": ("chat", {"choices": [{**CHOICE, "error": ERROR, "finish_reason": "error"}]}, {"error": ERROR}),
    "a failed completion": ("completions", {"choices": None}, {"choices": None}),
    "Anthropic's error": ("messages", {"type": "error", "error": {"type": "overloaded_error"}}, {"error": {"type": "overloaded_error"}}),
    "a message without content": ("messages", {"type": "message", "content": None}, {"type": "message", "content": None}),
    "a failed response": ("responses", {"status": "failed", "error": ERROR, "output": []}, {"status": "failed", "error": ERROR, "output": []}),
    "a response without output": ("responses", {"id": "r"}, {"id": "r"}),
    "embeddings without data": ("embeddings", {"object": "list"}, {"object": "list"}),
    "a passed-through error": ("passthrough", {"error": ERROR}, {"error": ERROR}),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_under_status_200_is_its_error_body(name):
    dialect, document, failure = FAILURES[name]
    assert DIALECTS[dialect].failed_answer(document) == failure


ANSWERS: dict[str, tuple[str, dict[str, Any]]] = {
    "an answer": ("chat", {"choices": [CHOICE]}),
    "an error of null": ("chat", {"error": None, "choices": [CHOICE]}),
    "an empty text": ("chat", {"choices": [{"index": 0, "message": {"content": ""}, "finish_reason": "stop"}]}),
    "one of two choices failed": ("chat", {"choices": [CHOICE, {"error": ERROR, "finish_reason": "error"}]}),
    "an empty completion": ("completions", {"choices": [{"text": "", "finish_reason": "stop"}]}),
    "an empty message": ("messages", {"type": "message", "content": [], "stop_reason": "end_turn"}),
    "an incomplete response": ("responses", {"status": "incomplete", "error": None, "output": []}),
    "a queued response": ("responses", {"status": "queued", "id": "r"}),
    "no vectors": ("embeddings", {"data": []}),
    "a stored object with an error": ("passthrough", {"id": "batch_1", "status": "failed", "error": ERROR}),
    "any other object": ("passthrough", {"deleted": True}),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_not_a_failure(name):
    dialect, document = ANSWERS[name]
    assert DIALECTS[dialect].failed_answer(document) is None


BODIES: dict[str, dict[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": "hi"}]},
    "completions": {"prompt": "hi"},
    "messages": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9},
    "responses": {"input": "hi"},
}


def read(dialect: str, *events: str) -> StreamMeter:
    body = {"model": "m", "stream": True, **BODIES[dialect]}
    meter = DIALECTS[dialect].stream_meter(PARSERS[dialect](json.dumps(body).encode()))
    for event in events:
        meter.feed(event.encode() + b"\n\n")
    return meter


OPENINGS = {
    "a comment": ("chat", ": OPENROUTER PROCESSING"),
    "a role": ("chat", 'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}'),
    "a role with empty fields": ("chat", 'data: {"choices":[{"delta":{"role":"assistant","content":null,"tool_calls":[],"refusal":null}}]}'),
    "an empty finish reason": ("chat", 'data: {"choices":[{"delta":{"content":""},"finish_reason":""}]}'),
    "Azure's prompt filter": ("chat", 'data: {"choices":[],"prompt_filter_results":[{"prompt_index":0}]}'),
    "usage so far": ("chat", 'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":0}}'),
    "an empty text": ("completions", 'data: {"choices":[{"text":"","finish_reason":null}]}'),
    "message_start": ("messages", 'event: message_start\ndata: {"type":"message_start","message":{"id":"m","content":[],"usage":{"input_tokens":3,"output_tokens":1}}}'),
    "a ping": ("messages", 'event: ping\ndata: {"type":"ping"}'),
    "an empty block": ("messages", 'data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}'),
    "response.created": ("responses", 'data: {"type":"response.created","response":{"id":"r","status":"in_progress","error":null}}'),
    "response.in_progress": ("responses", 'data: {"type":"response.in_progress","response":{"id":"r"}}'),
    "an announced message": ("responses", 'data: {"type":"response.output_item.added","item":{"type":"message","content":[]}}'),
    "an announced part": ("responses", 'data: {"type":"response.content_part.added","part":{"type":"output_text","text":""}}'),
}  # fmt: skip


@pytest.mark.parametrize("name", OPENINGS)
def test_the_opening_of_a_stream_is_not_the_answer_yet(name):
    meter = read(*OPENINGS[name])
    assert not meter.answer_begun and meter.error is None and not meter.is_complete


BEGINNINGS = {
    "a word": ("chat", 'data: {"choices":[{"delta":{"content":"a"}}]}'),
    "a call": ("chat", 'data: {"choices":[{"delta":{"tool_calls":[{"index":0,"id":"c","function":{"name":"f"}}]}}]}'),
    "reasoning": ("chat", 'data: {"choices":[{"delta":{"reasoning_details":[{"type":"reasoning.encrypted"}]}}]}'),
    "a picture": ("chat", 'data: {"choices":[{"delta":{"content":"","images":[{"type":"image_url"}]}}]}'),
    "a finish reason": ("chat", 'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}'),
    "text": ("completions", 'data: {"choices":[{"text":"a"}]}'),
    "a tool block": ("messages", 'data: {"type":"content_block_start","index":0,"content_block":{"type":"tool_use","name":"f"}}'),
    "a text delta": ("messages", 'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a"}}'),
    "an announced call": ("responses", 'data: {"type":"response.output_item.added","item":{"type":"function_call","name":"f"}}'),
    "a response's delta": ("responses", 'data: {"type":"response.output_text.delta","delta":"a"}'),
}  # fmt: skip


@pytest.mark.parametrize("name", BEGINNINGS)
def test_the_answer_begins_with_its_first_content(name):
    assert read(*BEGINNINGS[name]).answer_begun


ERRORS = {
    "an error object": ("chat", 'data: {"error":{"message":"m","code":500}}'),
    "vLLM's error": ("chat", 'data: {"object":"error","message":"m","code":400}'),
    "an error event without the key": ("chat", 'event: error\ndata: {"message":"m","code":500}'),
    "an error event without spaces": ("chat", 'event:error\ndata:{"message":"m"}'),
    "an error event with an id": ("chat", 'id: 1\nevent: error\ndata: {"message":"m"}'),
    "a finish reason of error": ("chat", 'data: {"choices":[{"delta":{"content":""},"finish_reason":"error"}]}'),
    "an error in the choice": ("chat", 'data: {"choices":[{"delta":{},"error":{"message":"m"},"finish_reason":"error"}]}'),
    "a completion's error": ("completions", 'data: {"error":{"message":"m"}}'),
    "Anthropic's error": ("messages", 'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"m"}}'),
    "Anthropic's error without an object": ("messages", 'event: error\ndata: {"message":"m"}'),
    "a response's error": ("responses", 'event: error\ndata: {"type":"error","code":"x","message":"m"}'),
    "a failed response": ("responses", 'data: {"type":"response.failed","response":{"status":"failed","error":{"message":"m"}}}'),
    "a failed response without an error": ("responses", 'data: {"type":"response.failed","response":{"status":"failed","error":null}}'),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_event_is_read_in_each_spelling(name):
    meter = read(*ERRORS[name])
    assert meter.error and not meter.answer_begun


def test_a_stream_of_only_its_end_mark_is_no_answer():
    meter = read("chat", "data: [DONE]")
    assert meter.done and not meter.is_complete
