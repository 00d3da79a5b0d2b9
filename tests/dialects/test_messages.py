"""Messages bodies read in the shape of chat completions; answers and errors in Anthropic's shape."""

import json
from typing import Any

import pytest

from gateway.dialects import messages
from gateway.values.errors import BadRequest, BodyTooLarge, Overloaded, Unauthenticated, UpstreamError, UpstreamTimeout
from gateway.values.plan import Refusal
from gateway.values.request import PARTS_SIZE, Message, Request

USER = {"role": "user", "content": "hi"}


def parse(*turns: dict[str, Any], **fields: Any) -> Request:
    return messages.parse(
        json.dumps({"model": "m", "max_tokens": 9, "messages": list(turns) or [USER], **fields}).encode()
    )


@pytest.mark.parametrize(
    "body, param",
    [
        ({"model": "m"}, "messages"),
        ({"model": "m", "messages": []}, "messages"),
        ({"model": "m", "messages": [{"role": "user"}]}, "messages[0]"),
        ({"model": "m", "messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"model": "m", "max_tokens": -1, "messages": [{"role": "user", "content": "x"}]}, "max_tokens"),
    ],
)
def test_an_invalid_field_is_named(body, param):
    with pytest.raises(BadRequest) as raised:
        messages.parse(json.dumps(body).encode())
    assert raised.value.param is not None and param.startswith(raised.value.param)


def test_a_messages_history_is_read_as_chat_messages():
    request = messages.parse(
        json.dumps(
            {
                "model": "m", "max_tokens": 5, "system": [{"type": "text", "text": "be brief"}], "tools": [{"name": "look"}],
                "messages": [
                    {"role": "user", "content": "go"},
                    {"role": "assistant", "content": [
                        {"type": "thinking", "thinking": "hm", "signature": "abc"},
                        {"type": "text", "text": "I look"},
                        {"type": "tool_use", "id": "t1", "name": "look", "input": {"a": 1}},
                        {"type": "tool_use", "id": "t2", "name": "look", "input": {}},
                    ]},
                    {"role": "user", "content": [
                        {"type": "tool_result", "tool_use_id": "t1", "content": "one"},
                        {"type": "tool_result", "tool_use_id": "t2", "content": [{"type": "text", "text": "two"}]},
                        {"type": "text", "text": "<system-reminder>not a user turn</system-reminder>"},
                    ]},
                    {"role": "user", "content": [{"type": "image", "source": {"type": "base64", "data": "AAAA"}}]},
                ],
            }
        ).encode()
    )  # fmt: skip
    assert [message.role for message in request.messages] == ["system", "user", "assistant", "tool", "tool", "user"]
    assert [message.content for message in request.messages[:5]] == ["be brief", "go", "I look", "one", "two"]
    calls = json.loads(bytes(request.messages[2].tool_calls))
    assert calls[0] == {"id": "t1", "function": {"name": "look", "arguments": {"a": 1}}}
    assert request.sizes[-1] == PARTS_SIZE and request.tool_names == {"look"}
    assert request.provider_state == {"thinking"}


def test_the_text_beside_tool_results_is_a_user_turn_but_reminders_are_not():
    result = {"type": "tool_result", "tool_use_id": "t", "content": "x", "is_error": True}
    text = {"type": "text", "text": "and now?"}
    reminder = {"type": "text", "text": "<system-reminder>x</system-reminder>"}
    request = parse({"role": "user", "content": [text, result, reminder]})
    assert request.messages == [
        Message("tool", "x", tool_call_id="t", is_error=True),
        Message("user", "and now?"),
    ]
    assert parse({"role": "user", "content": [reminder]}).messages == [Message("user", reminder["text"])]


def test_media_are_read_as_their_size_and_end():
    source = {"type": "base64", "media_type": "image/png", "data": "A" * 100}
    url = {"type": "url", "url": "https://example.com/a.png"}
    content = [{"type": "text", "text": "look"}, {"type": "image", "source": source}, {"type": "image", "source": url}]
    (message,) = parse({"role": "user", "content": content}).messages
    assert message.content == [
        {"text": "look"},
        {"media_bytes": 100, "media": "A" * 64},
        {"media_bytes": 0, "media": "https://example.com/a.png"},
    ]


def test_an_image_in_a_tool_result_is_read_as_its_size():
    parts = [{"type": "text", "text": "a"}, {"type": "image", "source": {"type": "base64", "data": "AAAA"}}]
    request = parse({"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": parts}]})
    assert request.messages[0].content == [{"text": "a"}, {"media_bytes": 4, "media": "AAAA"}]
    assert request.sizes == [PARTS_SIZE]


@pytest.mark.parametrize(
    "block, state",
    [
        ({"type": "thinking", "thinking": "x", "signature": "abc"}, {"thinking"}),
        ({"type": "thinking", "thinking": "x", "signature": messages.UNSIGNED_SIGNATURE_PREFIX}, {"unsigned_thinking"}),
        ({"type": "redacted_thinking", "data": "x"}, {"thinking"}),
        ({"type": "text", "text": "x"}, set()),
    ],
    ids=["signed thinking", "thinking of the gateway", "redacted thinking", "text"],
)
def test_thinking_binds_the_conversation_to_whoever_can_read_it(block, state):
    assert parse(USER, {"role": "assistant", "content": [block]}).provider_state == state


def test_a_file_by_id_binds_the_conversation():
    image = {"type": "image", "source": {"type": "file", "file_id": "file_1"}}
    assert parse({"role": "user", "content": [image]}).provider_state == {"file"}


@pytest.mark.parametrize(
    "fields, user",
    [
        ({"metadata": {"user_id": "u1"}}, "u1"),
        ({"metadata": {"user_id": 7}}, ""),
        ({"metadata": None}, ""),
        ({"metadata": "x"}, ""),
        ({}, ""),
    ],
)
def test_the_end_user_is_in_the_metadata(fields, user):
    assert parse(**fields).user == user


@pytest.mark.parametrize(
    "fields, has_schema",
    [
        ({"output_config": {"format": {"type": "json_schema", "schema": {}}}}, True),
        ({"output_config": {"effort": "low"}}, False),
        ({"output_format": {"type": "json_schema"}}, True),
        ({"output_config": 7}, False),
        ({}, False),
    ],
)
def test_an_output_format_is_a_schema(fields, has_schema):
    assert parse(**fields).has_schema is has_schema


@pytest.mark.parametrize("tools, names", [([{"name": "a"}, {"name": "b"}], {"a", "b"}), ("x", set()), (None, set())])
def test_the_names_of_tools_are_read_where_they_have_a_known_shape(tools, names):
    assert parse(tools=tools).tool_names == names


def test_text_thinking_and_tool_input_of_an_answer_are_counted():
    content = [
        {"type": "thinking", "thinking": "abc"},
        {"type": "text", "text": "Łódź"},
        {"type": "tool_use", "name": "f", "input": {"a": 1}},
        7,
    ]
    assert messages.answer_text_bytes({"content": content}) == 3 + 7 + len('{"a":1}')
    assert messages.answer_text_bytes({"content": None}) == messages.answer_text_bytes({}) == 0


def test_a_refusal_is_402_unless_a_field_is_at_fault_or_waiting_helps():
    refused = messages.refusal_response(Refusal(code="budget_exceeded", message="used up", details={"used": 1}))
    assert (refused.status, refused.headers["x-should-retry"]) == (402, "false")
    assert json.loads(refused.body) == {
        "type": "error",
        "error": {
            "type": "billing_error", "message": "used up", "code": "budget_exceeded", "param": None, "details": {"used": 1},
        },
    }  # fmt: skip
    assert messages.refusal_response(Refusal(code="x", message="m", param="tools")).status == 400
    delayed = messages.refusal_response(Refusal(code="x", message="soon", retry_after_seconds=3))
    assert (delayed.status, delayed.headers["retry-after"]) == (429, "3") and "x-should-retry" not in delayed.headers
    assert messages.refusal_response(Refusal(code="x", message="m", status=403)).status == 403


@pytest.mark.parametrize(
    "error, status, kind",
    [
        (BadRequest("no"), 400, "invalid_request_error"),
        (Unauthenticated("no"), 401, "authentication_error"),
        (BodyTooLarge("no"), 413, "request_too_large"),
        (UpstreamError("no"), 502, "api_error"),
        (UpstreamTimeout("no"), 504, "timeout_error"),
        (Overloaded("no"), 503, "overloaded_error"),
    ],
)
def test_errors_have_anthropic_s_types(error, status, kind):
    response = messages.error_response(error)
    body = json.loads(response.body)
    assert (response.status, body["type"], body["error"]["type"]) == (status, "error", kind)
    assert ("x-should-retry" in response.headers) is not isinstance(error, Overloaded)
    assert messages.error_event(error).startswith(b"event: error\ndata: ")


@pytest.mark.parametrize(
    "status, kind", [(418, "invalid_request_error"), (599, "api_error"), (529, "overloaded_error")]
)
def test_a_status_without_a_type_of_its_own_gets_that_of_its_class(status, kind):
    assert messages.error_type_of(status) == kind
