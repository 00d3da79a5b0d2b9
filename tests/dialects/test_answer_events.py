"""Unstreamed answers as streams, as the SDKs put them together again."""

import json
from typing import Any

import httpx
import openai
import pytest

from gateway.dialects import DIALECTS
from gateway.dialects.sse import events_of, payload_of

CALLS = [{"id": name, "type": "function", "function": {"name": name, "arguments": "{}"}} for name in ("f", "g")]
CHAT = {
    "id": "c", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "words", "tool_calls": CALLS}, "finish_reason": "tool_calls"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
}  # fmt: skip
MESSAGE: dict[str, Any] = {
    "id": "m", "type": "message", "role": "assistant", "model": "c", "stop_reason": "tool_use", "stop_sequence": None,
    "content": [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "text", "text": "words"},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": [1, "é"]}},
        {"type": "redacted_thinking", "data": "x"},
    ],
    "usage": {"input_tokens": 3, "output_tokens": 2},
}  # fmt: skip


def transport(events: bytes | None) -> httpx.MockTransport:
    assert events is not None
    headers = {"content-type": "text/event-stream"}
    return httpx.MockTransport(lambda request: httpx.Response(200, headers=headers, content=events))


def test_openai_s_sdk_reads_the_same_answer():
    events = DIALECTS["chat"].answer_events_of(CHAT)
    client = openai.OpenAI(api_key="k", http_client=httpx.Client(transport=transport(events)))
    with client.chat.completions.stream(model="m", messages=[{"role": "user", "content": "hi"}]) as stream:
        completion = stream.get_final_completion()
    message = completion.choices[0].message
    assert message.content == "words"
    assert [(call.id, call.function.name) for call in message.tool_calls or []] == [("f", "f"), ("g", "g")]
    assert completion.choices[0].finish_reason == "tool_calls"
    assert completion.usage is not None and completion.usage.total_tokens == 5


def test_the_events_of_a_message_build_the_same_message():
    events = DIALECTS["messages"].answer_events_of(MESSAGE)
    assert events is not None
    payloads = [payload for event in events_of(events) if (payload := payload_of(event)) is not None]
    message, partial_json = payloads[0]["message"], ""
    for payload in payloads[1:]:
        delta = payload.get("delta", {})
        match payload["type"]:
            case "content_block_start":
                message["content"].append(payload["content_block"])
            case "content_block_delta":
                block = message["content"][payload["index"]]
                partial_json += delta.get("partial_json", "")
                block |= {name: block.get(name, "") + delta[name] for name in ("text", "thinking") if name in delta}
                block |= {"signature": delta["signature"]} if "signature" in delta else {}
            case "content_block_stop" if partial_json:
                message["content"][payload["index"]]["input"], partial_json = json.loads(partial_json), ""
            case "message_delta":
                message |= {**delta, "usage": payload["usage"]}
    assert message == MESSAGE
    assert payloads[-1]["type"] == "message_stop"


def test_a_completion_is_one_chunk():
    document = {"id": "c", "choices": [{"index": 0, "text": "words", "finish_reason": "stop"}]}
    events = DIALECTS["completions"].answer_events_of(document)
    assert events == b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\ndata: [DONE]\n\n"


@pytest.mark.parametrize("dialect", ["responses", "embeddings", "passthrough"])
def test_other_answers_stay_whole(dialect):
    assert DIALECTS[dialect].answer_events_of({}) is None
