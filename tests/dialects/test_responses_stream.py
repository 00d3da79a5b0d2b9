"""Responses streams: usage, calls and fingerprint are read from the event that ends them."""

from typing import Any

import pytest

from gateway.dialects.answer_fingerprint import AnswerFingerprint
from gateway.dialects.responses_stream import ResponsesStreamMeter
from gateway.dialects.sse import encode_event
from tests.dialects import stream_checks
from tests.dialects.streams import INPUT_TOKENS, OUTPUT_TOKENS

OUTPUT = [
    {"type": "reasoning"},
    {"type": "message", "content": [{"type": "output_text", "text": "I look."}]},
    {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"a": 1}'},
    {"type": "custom_tool_call", "call_id": "c2", "name": "exec", "input": "x"},
    {"type": "web_search_call", "id": "ws_1"},
]
USAGE = {"input_tokens": 9, "output_tokens": 4, "total_tokens": 13}


def feed(*events: dict[str, Any]) -> ResponsesStreamMeter:
    meter = ResponsesStreamMeter()
    for event in events:
        raw = encode_event(event, named=True)
        assert meter.feed(raw) == raw
    return meter


def created() -> dict[str, Any]:
    return {"type": "response.created", "response": {"id": "resp_1", "status": "in_progress", "usage": None}}


def test_the_first_event_names_the_answer():
    meter = feed(created())
    assert (meter.id, meter.usage, meter.is_complete) == ("resp_1", None, False)


@pytest.mark.parametrize("kind", ["response.completed", "response.incomplete"])
def test_the_last_event_has_usage_calls_and_fingerprint(kind):
    meter = feed(created(), {"type": kind, "response": {"id": "resp_1", "output": OUTPUT, "usage": USAGE}})
    assert meter.usage == USAGE and meter.done and meter.error is None
    assert meter.fingerprint == AnswerFingerprint("I look.", "c1", 'look{"a":1}')
    assert meter.tool_calls == (
        ("c1", "look", '{"a": 1}'),
        ("c2", "exec", "x"),
        (None, "web_search_call", None),
    )


def test_a_failed_response_is_an_error():
    failure = {"code": "server_error", "message": "no"}
    meter = feed(created(), {"type": "response.failed", "response": {"id": "resp_1", "error": failure, "usage": None}})
    assert (meter.error, meter.usage, meter.done) == (failure, None, True)


@pytest.mark.parametrize(
    "event, error",
    [
        ({"type": "error", "code": "x", "message": "no"}, {"type": "error", "code": "x", "message": "no"}),
        ({"type": "error", "error": {"message": "no"}}, {"message": "no"}),
        ({"error": {"message": "no"}}, {"message": "no"}),
    ],
    ids=["OpenAI's flat event", "a nested error", "no type"],
)
def test_an_error_event_is_recorded(event, error):
    meter = feed(created(), event)
    assert meter.error == error and not meter.done


def test_deltas_are_counted_and_repeated_texts_are_not():
    meter = feed(
        created(),
        {"type": "response.output_text.delta", "delta": "Łódź"},
        {"type": "response.function_call_arguments.delta", "delta": "{}"},
        {"type": "response.output_text.done", "text": "Łódź"},
    )
    assert meter.text_totals() == (9, 2)


def test_an_early_end_reports_the_tokens_so_far():
    meter = ResponsesStreamMeter()
    meter.may_end_early = True
    meter.feed(encode_event(created(), named=True))
    (event,) = stream_checks.payloads(meter.end_early(INPUT_TOKENS, OUTPUT_TOKENS))
    assert (event["type"], event["response"]["status"]) == ("response.incomplete", "incomplete")
    assert event["response"]["usage"]["total_tokens"] == INPUT_TOKENS + OUTPUT_TOKENS
