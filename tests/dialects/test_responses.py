"""Responses bodies read in the shape of chat completions; stored transcripts; errors."""

import json
from typing import Any

import pytest

from gateway.dialects import responses
from gateway.dialects.sse import events_of, payload_of
from gateway.values.errors import BadRequest, BrokenResponse
from gateway.values.request import Message, Request


def parse(input_: Any = "hi", **fields: Any) -> Request:
    return responses.parse(json.dumps({"model": "m", "input": input_, **fields}).encode())


@pytest.mark.parametrize(
    "body, param",
    [
        ({"model": "m", "input": 7}, "input"),
        ({"input": "x"}, "model"),
        ({"model": "m", "input": "x", "max_output_tokens": 10**9}, "max_output_tokens"),
    ],
)
def test_an_invalid_field_is_named(body, param):
    with pytest.raises(BadRequest) as raised:
        responses.parse(json.dumps(body).encode())
    assert raised.value.param is not None and param.startswith(raised.value.param)


def test_a_responses_history_is_read_as_chat_messages():
    request = responses.parse(
        json.dumps(
            {
                "model": "m", "instructions": "be brief",
                "tools": [{"type": "namespace", "name": "n", "tools": [{"type": "custom", "name": "exec"}]}, {"type": "web_search"}],
                "input": [
                    {"type": "additional_tools", "tools": [{"type": "function", "name": "wait"}]},
                    {"role": "user", "content": "go"},
                    {"type": "reasoning", "encrypted_content": "opaque", "summary": []},
                    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look"}]},
                    {"type": "function_call", "call_id": "c1", "name": "wait", "arguments": "{}"},
                    {"type": "custom_tool_call", "call_id": "c2", "name": "exec", "input": "x"},
                    {"type": "function_call_output", "call_id": "c1", "output": "one"},
                    {"type": "custom_tool_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "two"}]},
                ],
            }
        ).encode()
    )  # fmt: skip
    assert [message.role for message in request.messages] == ["system", "user", "assistant", "tool", "tool"]
    assert [call["function"]["name"] for call in json.loads(bytes(request.messages[2].tool_calls))] == ["wait", "exec"]
    assert request.tool_names == {"exec", "wait"}
    assert request.provider_state == {"encrypted_reasoning"}


def test_a_stored_transcript_replaces_previous_response_id():
    first = responses.parse(b'{"model":"m","input":"go"}')
    transcript = responses.transcript(first, [{"type": "message", "id": "msg_1", "role": "assistant", "content": []}])
    second = responses.parse(b'{"model":"m","input":"on","previous_response_id":"resp_1","x":1}')
    document = json.loads(bytes(responses.prepend_transcript(second, transcript).body))
    assert [item.get("role") for item in document["input"]] == ["user", "assistant", "user"]
    assert "previous_response_id" not in document and document["x"] == 1


@pytest.mark.parametrize("fields", [{"previous_response_id": "resp_1"}, {"prompt": {"id": "pmpt_1"}}])
def test_a_request_without_input_is_one_empty_turn(fields):
    request = responses.parse(json.dumps({"model": "m", **fields}).encode())
    assert request.messages == [Message("user", "")]


@pytest.mark.parametrize(
    "input_, fields, state",
    [
        ("x", {}, set()),
        ("x", {"prompt": {"id": "pmpt_1"}}, {"stored"}),
        ([{"type": "item_reference", "id": "msg_1"}], {}, {"stored"}),
        ([{"type": "compaction", "encrypted_content": "x"}], {}, {"encrypted_reasoning"}),
        ([{"type": "reasoning", "encrypted_content": "opaque"}], {}, {"encrypted_reasoning"}),
        ([{"type": "reasoning", "encrypted_content": responses.SEALED_REASONING_PREFIX + "x"}], {}, {"own_seal"}),
        ([{"type": "reasoning", "summary": []}], {}, set()),
        ([{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}], {}, {"file"}),
    ],
    ids=["text", "a stored prompt", "an item by id", "a compaction", "sealed reasoning", "reasoning sealed by the gateway", "a summary", "a file by id"],
)  # fmt: skip
def test_state_that_only_its_provider_can_read_is_named(input_, fields, state):
    assert parse(input_, **fields).provider_state == state


@pytest.mark.parametrize(
    "fields, ids, conversation",
    [
        ({}, (), ""),
        ({"previous_response_id": "resp_1"}, ("resp_1",), ""),
        ({"conversation": "conv_1"}, ("conv_1",), "conv_1"),
        ({"conversation": {"id": "conv_1"}, "previous_response_id": "resp_1"}, ("resp_1", "conv_1"), "conv_1"),
        ({"conversation": 7}, (), ""),
    ],
)
def test_objects_stored_at_the_provider_are_referenced_by_id(fields, ids, conversation):
    request = parse(**fields)
    assert (request.referenced_ids, request.conversation_id) == (ids, conversation)
    assert request.previous_response_id == fields.get("previous_response_id")


def test_images_are_read_as_their_size_and_end():
    inline = "data:image/png;base64," + "A" * 100
    content = [
        {"type": "input_text", "text": "look"},
        {"type": "input_image", "image_url": inline},
        {"type": "input_image", "image_url": "https://example.com/a.png"},
        {"type": "input_image", "file_id": "file_1"},
    ]
    (message,) = parse([{"role": "user", "content": content}]).messages
    assert message.content == [
        {"text": "look"},
        {"media_bytes": len(inline), "media": "A" * 64},
        {"media_bytes": 0, "media": "https://example.com/a.png"},
        {"media_bytes": 0, "media": "file_1"},
    ]


def test_an_image_in_a_tool_output_is_read_as_its_size():
    output = [{"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": "data:x"}, 7]
    request = parse([{"type": "function_call_output", "call_id": "c", "output": output}])
    assert request.messages[0].content == [{"text": "a"}, {"media_bytes": 6, "media": "data:x"}]
    assert request.messages[0].tool_call_id == "c"


@pytest.mark.parametrize(
    "text, has_schema",
    [
        ({"format": {"type": "json_schema"}}, True),
        ({"format": {"type": "json_object"}}, True),
        ({"format": {"type": "text"}}, False),
        ({"verbosity": "low"}, False),
        (7, False),
        (None, False),
    ],
)
def test_a_text_format_other_than_text_is_a_schema(text, has_schema):
    assert parse(text=text).has_schema is has_schema


def test_tools_of_an_unknown_shape_have_no_names():
    assert parse(tools=[7]).tool_names == parse(tools="x").tool_names == frozenset()


def test_a_transcript_has_no_ids_and_only_sealed_reasoning():
    output = [
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "penstock.x"},
        {"type": "message", "id": "msg_1", "role": "assistant", "content": []},
    ]
    assert json.loads(responses.transcript(parse("go"), output)) == [
        {"type": "message", "role": "user", "content": "go"},
        {"type": "reasoning", "summary": [], "encrypted_content": "penstock.x"},
        {"type": "message", "role": "assistant", "content": []},
    ]


def test_message_texts_and_calls_of_an_answer_are_counted():
    output = [
        {"type": "message", "content": [{"type": "output_text", "text": "Łódź"}, 7]},
        {"type": "function_call", "arguments": "{}"},
        {"type": "custom_tool_call", "input": "abc"},
        {"type": "reasoning", "content": None},
        7,
    ]
    assert responses.answer_text_bytes({"output": output}) == 7 + 2 + 3
    assert responses.answer_text_bytes({"output": None}) == responses.answer_text_bytes({}) == 0


def test_a_failure_mid_stream_is_a_failed_response_and_an_error():
    failed, error = [payload_of(event) for event in events_of(responses.error_event(BrokenResponse("cut")))]
    assert failed is not None and error is not None
    assert (failed["type"], failed["response"]["status"]) == ("response.failed", "failed")
    assert failed["response"]["error"] == {"code": "upstream_invalid_response", "message": "cut"}
    assert (error["type"], error["message"], error["error"]["message"]) == ("error", "cut", "cut")
