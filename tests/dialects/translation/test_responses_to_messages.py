"""Responses to Messages and back, by way of chat completions."""

import base64
import json
from typing import Any

import pytest

from gateway.dialects.responses import SEALED_REASONING_PREFIX
from gateway.dialects.translation.responses_to_chat import unseal_reasoning
from gateway.values.errors import NotTranslatable
from tests.dialects.translation.translating import answer_translator, translate


@pytest.mark.parametrize(
    "fields, param",
    [
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"next_year": 1}, "next_year"),
    ],
)  # fmt: skip
def test_a_field_without_a_counterpart_is_refused_by_name(fields, param):
    with pytest.raises(NotTranslatable) as raised:
        translate("responses", "messages", **fields)
    assert raised.value.param == param


@pytest.mark.parametrize(
    "fields, dropped",
    [
        ({"stream": True, "stream_options": {"include_obfuscation": False}}, ("stream_options",)),
    ],
)
def test_a_field_that_no_answer_depends_on_is_dropped_and_reported(fields, dropped):
    assert translate("responses", "messages", **fields).dropped_fields == dropped


def test_reasoning_stays_with_the_turn_it_led_to():
    def seal(text: str) -> dict:
        blocks = [{"type": "thinking", "thinking": text, "signature": "s"}]
        sealed = SEALED_REASONING_PREFIX + base64.b64encode(json.dumps(blocks).encode()).decode()
        return {"type": "reasoning", "summary": [], "encrypted_content": sealed}

    def call(name: str) -> dict:
        return {"type": "function_call", "call_id": name, "name": "f", "arguments": "{}"}

    items = [
        {"role": "user", "content": "x"},
        seal("dropped"),
        {"role": "user", "content": "y"},
        seal("1"),
        call("a"),
        seal("2"),
        call("b"),
    ]
    translated = translate("responses", "messages", input=items)
    turn = translated.document["messages"][-1]["content"]
    assert [block.get("thinking", block["type"]) for block in turn] == ["1", "2", "tool_use", "tool_use"]
    assert translated.dropped_fields == ("reasoning of earlier turns",)


def test_what_either_step_drops_is_reported():
    translated = translate("responses", "messages", metadata={"a": "b"}, text={"verbosity": "low"})
    assert translated.dropped_fields == ("text.verbosity", "metadata")


ANSWER: dict[str, Any] = {
    "content": [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "text", "text": "Hi"},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
    ],
    "stop_reason": "tool_use",
    "usage": {"input_tokens": 3, "cache_read_input_tokens": 4, "output_tokens": 5},
}
TOOLS = [{"type": "function", "name": "f", "parameters": {"type": "object"}}]


def test_an_answer_keeps_its_thinking_sealed():
    fields: dict[str, Any] = {"tools": TOOLS, "include": ["reasoning.encrypted_content"]}
    response = answer_translator("responses", "messages", **fields).translate_document(ANSWER)
    reasoning, message, call = response["output"]
    assert unseal_reasoning(reasoning["encrypted_content"]) == ANSWER["content"][:1]
    assert message["content"][0]["text"] == "Hi"
    assert (call["call_id"], call["name"], call["arguments"]) == ("t", "f", '{"a":1}')
    assert (response["status"], response["usage"]["input_tokens"], response["usage"]["output_tokens"]) == (
        "completed",
        7,
        5,
    )


def test_a_stream_reports_usage_whether_or_not_chat_would():
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"usage": {"input_tokens": 3}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "Hi"}},
        {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": {"output_tokens": 5}},
    ]
    translator = answer_translator("responses", "messages", stream=True)
    out = [event for payload in events for event in translator.feed(payload)] + translator.end()
    assert [event["sequence_number"] for event in out] == list(range(len(out)))
    assert (out[-1]["type"], out[-1]["response"]["usage"]["total_tokens"]) == ("response.incomplete", 8)


@pytest.mark.parametrize("store, id_, count", [(None, "resp_a", 3), (True, "resp_a", 3), (False, "", 0)])
def test_an_answer_is_stored_unless_the_caller_declines(store, id_, count):
    translator = answer_translator("responses", "messages", tools=TOOLS, store=store)
    translator.translate_document(ANSWER)
    stored_id, items = translator.stored_answer()
    assert (stored_id, len(items)) == (id_, count)
