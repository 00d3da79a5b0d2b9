"""Chat answers to Messages, whole and chunk by chunk."""

from typing import Any

import pytest

from gateway.dialects.messages import UNSIGNED_SIGNATURE_PREFIX
from tests.dialects.translation.translating import answer_translator


def chat_answer(message: dict[str, Any], reason: str = "stop", **more: Any) -> dict[str, Any]:
    return {"choices": [{"message": message, "finish_reason": reason}], **more}


CALL = {"id": "c", "function": {"name": "f", "arguments": '{"a": 1}'}}


def test_an_answer_keeps_text_calls_and_usage():
    usage = {"prompt_tokens": 7, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}}
    message = {"content": "Hi", "reasoning_content": "hm", "tool_calls": [CALL]}
    answer = answer_translator("messages", "chat").translate_document(chat_answer(message, usage=usage))
    assert answer["content"] == [
        {"type": "text", "text": "Hi"},
        {"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}},
    ]
    assert (answer["id"], answer["type"], answer["model"], answer["stop_reason"]) == (
        "msg_a",
        "message",
        "m",
        "tool_use",
    )
    assert (answer["usage"]["input_tokens"], answer["usage"]["cache_read_input_tokens"]) == (3, 4)


@pytest.mark.parametrize(
    "message, block",
    [
        ({"reasoning_content": "hm"}, {"type": "thinking", "thinking": "hm", "signature": UNSIGNED_SIGNATURE_PREFIX}),
        ({"reasoning": "hm"}, {"type": "thinking", "thinking": "hm", "signature": UNSIGNED_SIGNATURE_PREFIX}),
        ({"reasoning_content": "hm", "thinking_blocks": [{"type": "thinking", "signature": "s"}]}, {"type": "thinking", "thinking": "hm", "signature": "s"}),
    ],
    ids=["reasoning_content", "reasoning", "signed blocks"],
)  # fmt: skip
def test_thinking_is_returned_to_a_caller_who_asked_for_it(message, block):
    thinking = {"type": "enabled", "budget_tokens": 1024}
    answer = answer_translator("messages", "chat", thinking=thinking).translate_document(chat_answer(message))
    assert answer["content"] == [block]
    assert answer_translator("messages", "chat").translate_document(chat_answer(message))["content"] == []


@pytest.mark.parametrize(
    "arguments, input_",
    [
        ("", {}),
        (None, {}),
        ('{"a": 1}', {"a": 1}),
        ("[1]", {"invalid_arguments": "[1]"}),
        ("{", {"invalid_arguments": "{"}),
    ],
)
def test_arguments_that_are_no_object_are_wrapped(arguments, input_):
    message = {"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": arguments}}]}
    (block,) = answer_translator("messages", "chat").translate_document(chat_answer(message))["content"]
    assert block["input"] == input_


@pytest.mark.parametrize(
    "reason, expected",
    [("stop", "end_turn"), ("length", "max_tokens"), ("content_filter", "refusal"), ("new", "end_turn")],
)
def test_a_finish_reason_is_translated(reason, expected):
    answer = answer_translator("messages", "chat").translate_document(chat_answer({"content": "x"}, reason))
    assert answer["stop_reason"] == expected


def events_of(*deltas: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    translator = answer_translator("messages", "chat", stream=True, **fields)
    events = [event for delta in deltas for event in translator.feed({"choices": [{"delta": delta}]})]
    return events + translator.end()


def test_interleaved_calls_have_a_block_each_one_after_the_other():
    events = events_of(
        {"tool_calls": [{"index": 0, "id": "c0", "function": {"name": "f", "arguments": "{"}}]},
        {"tool_calls": [{"index": 1, "id": "c1", "function": {"name": "g", "arguments": "{}"}}]},
        {"content": "Hi"},
        {"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]},
    )
    kinds = [(event["type"].removeprefix("content_block_"), event["index"]) for event in events if "index" in event]
    assert kinds == [
        *(("start", 0), ("delta", 0), ("delta", 0), ("stop", 0)),
        *(("start", 1), ("delta", 1), ("stop", 1)),
        *(("start", 2), ("delta", 2), ("stop", 2)),
    ]
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


def test_a_call_ends_as_soon_as_the_next_one_begins():
    translator = answer_translator("messages", "chat", stream=True)
    call = {"index": 0, "id": "c0", "function": {"name": "f", "arguments": "{}"}}
    translator.feed({"choices": [{"delta": {"tool_calls": [call]}}]})
    second = {"choices": [{"delta": {"tool_calls": [{**call, "index": 1, "id": "c1"}]}}]}
    assert [event["type"] for event in translator.feed(second)] == [
        "content_block_delta",
        "content_block_stop",
        "content_block_start",
    ]


def test_unsigned_thinking_is_signed_by_the_gateway_where_it_ends():
    events = events_of({"reasoning_content": "hm"}, {"content": "Hi"}, thinking={"type": "adaptive"})
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert deltas == [
        {"type": "thinking_delta", "thinking": "hm"},
        {"type": "signature_delta", "signature": UNSIGNED_SIGNATURE_PREFIX},
        {"type": "text_delta", "text": "Hi"},
    ]


def test_a_signed_block_keeps_its_signature():
    signed = {"thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "s"}]}
    events = events_of({"reasoning_content": "hm"}, signed, {"content": "Hi"}, thinking={"type": "adaptive"})
    signatures = [event["delta"]["signature"] for event in events if event.get("delta", {}).get("signature")]
    assert signatures == ["s"]


def test_redacted_thinking_is_a_block_of_its_own():
    redacted = {"type": "redacted_thinking", "data": "x"}
    events = events_of({"thinking_blocks": [redacted]}, {"content": "Hi"}, thinking={"type": "adaptive"})
    starts = [event["content_block"] for event in events if event["type"] == "content_block_start"]
    assert starts == [redacted, {"type": "text", "text": ""}]


def test_an_empty_stream_is_an_empty_message():
    assert [event["type"] for event in events_of()] == ["message_start", "message_delta", "message_stop"]


def test_such_an_answer_is_not_stored():
    assert answer_translator("messages", "chat").stored_answer() == ("", [])
