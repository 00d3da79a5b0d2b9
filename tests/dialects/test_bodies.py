"""Bodies of every dialect: unknown fields are forwarded byte for byte, errors name the field."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects import DIALECTS, PARSERS, messages, responses
from gateway.values.errors import BadRequest
from gateway.values.request import PARTS_SIZE
from tests.dialects.test_chat import JSON_VALUES

MINIMAL_BODIES = {
    "chat": {"messages": [{"role": "user", "content": "hi"}]},
    "responses": {"input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}]},
    "messages": {
        "max_tokens": 9,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi", "x": 1e400}]}],
    },
    "embeddings": {"input": ["a", "b"]},
    "completions": {"prompt": "hi"},
}
# Names that no dialect reads.
FREE = st.text(min_size=1).map(lambda name: f"x-{name}")


@pytest.mark.parametrize("dialect", MINIMAL_BODIES)
@given(unknown=st.dictionaries(FREE, JSON_VALUES, max_size=5), position=st.integers(0, 5))
@settings(deadline=None)
def test_unknown_fields_reach_the_provider_byte_for_byte(dialect, unknown, position):
    fields = list({**MINIMAL_BODIES[dialect], **unknown}.items())
    fields.insert(min(position, len(fields)), ("model", "auto"))
    raw = json.dumps(dict(fields)).encode("utf-8", "surrogatepass")
    try:
        request = PARSERS[dialect](raw)
    except BadRequest as error:
        assert "JSON" in error.message
        return
    start, end = request.model_span
    sent = b"".join(DIALECTS[dialect].upstream_body(request, "upstream", ask_usage=True))
    assert sent == raw[:start] + b'"upstream"' + raw[end:]


@pytest.mark.parametrize(
    "dialect, body, param",
    [
        ("messages", {"model": "m"}, "messages"),
        ("messages", {"model": "m", "messages": []}, "messages"),
        ("messages", {"model": "m", "messages": [{"role": "user"}]}, "messages[0]"),
        ("messages", {"model": "m", "messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ("messages", {"model": "m", "max_tokens": -1, "messages": [{"role": "user", "content": "x"}]}, "max_tokens"),
        ("responses", {"model": "m", "input": 7}, "input"),
        ("responses", {"input": "x"}, "model"),
        ("responses", {"model": "m", "input": "x", "max_output_tokens": 10**9}, "max_output_tokens"),
        ("embeddings", {"model": "m", "input": []}, "input"),
        ("completions", {"model": "m"}, "prompt"),
        ("completions", {"model": "m", "prompt": "x", "n": 0}, "n"),
    ],
)
def test_an_invalid_field_is_named(dialect, body, param):
    with pytest.raises(BadRequest) as raised:
        PARSERS[dialect](json.dumps(body).encode())
    assert raised.value.param is not None and param.startswith(raised.value.param)


@pytest.mark.parametrize(
    "dialect, body, message",
    [
        ("chat", b"[]", "Invalid type for 'body': expected an object, but got an array instead."),
        ("chat", b"{", "We could not parse the JSON body of your request: Input data was truncated."),
        ("chat", b'{"model":"m"}', "Missing required parameter: 'messages'."),
        ("chat", b'{"messages":[]}', "Missing required parameter: 'model'."),
        ("chat", b'{"model":"m","messages":[{}]}', "Missing required parameter: 'messages[0].role'."),
        ("chat", b'{"model":7,"messages":[]}', "Invalid type for 'model': expected a string, but got an integer instead."),
        ("chat", b'{"model":"m","messages":null}', "Invalid type for 'messages': expected an array, but got null instead."),
        ("chat", b'{"model":"m","messages":[]}', "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead."),
        ("chat", b'{"model":"m","messages":[{"role":"user","content":{}}]}', "Invalid type for 'messages[0].content': expected one of a string or array, but got an object instead."),
        ("chat", b'{"model":"m","messages":[{"role":"user"}],"n":1000}', "Invalid 'n': integer above maximum value. Expected a value <= 128, but got 1000 instead."),
        ("chat", b'{"model":"m","messages":[{"role":"user"}],"n":0}', "Invalid 'n': integer below minimum value. Expected a value >= 1, but got 0 instead."),
        ("chat", b'{"model":"a","model":"b","messages":[]}', "Invalid 'model': the key must appear exactly once, in lower case and without escapes."),
        ("completions", b'{"model":"","prompt":"x"}', "Invalid 'model': empty string. Expected a string with minimum length 1, but got an empty string instead."),
        ("embeddings", b'{"model":"' + b"m" * 257 + b'","input":"x"}', "Invalid 'model': string too long. Expected a string with maximum length 256, but got a string with length 257 instead."),
        ("messages", b"{", "The request body is not valid JSON: Input data was truncated"),
        ("messages", b'{"model":"m"}', "messages: Field required"),
        ("messages", b'{"model":"m","messages":[{"role":"user"}]}', "messages.0.content: Field required"),
        ("messages", b'{"model":"m","messages":[{"role":"user","content":7}]}', "messages.0.content: Input should be a valid string or list, got an integer"),
        ("messages", b'{"model":"m","messages":[]}', "messages: at least one message is required"),
        ("messages", b'{"model":"m","max_tokens":-1,"messages":[{"role":"user","content":"x"}]}', "max_tokens: Input should be greater than or equal to 1, got -1"),
    ],
)  # fmt: skip
def test_errors_have_the_wording_of_the_dialect_s_provider(dialect, body, message):
    with pytest.raises(BadRequest) as raised:
        PARSERS[dialect](body)
    assert raised.value.message == message


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
