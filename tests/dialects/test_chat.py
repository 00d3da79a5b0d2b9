"""Chat-completions bodies: parsed once, forwarded unchanged but for two splices."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects import chat
from gateway.values.errors import BadRequest
from gateway.values.request import PARTS_SIZE, TOOLS_BYTES_MAX, Request
from tests.dialects.json_values import JSON_VALUES

MESSAGES = [{"role": "user", "content": "hi"}]
# Fields that the gateway reads, and the key that masks the model.
READ_FIELDS = (
    "_odel", "client_metadata", "max_completion_tokens", "max_tokens", "messages", "metadata", "n", "prompt_cache_key",
    "response_format", "safety_identifier", "session_id", "stream", "stream_options", "tools", "user",
)  # fmt: skip
FREE_NAMES = st.text(min_size=1).filter(lambda name: name not in READ_FIELDS and name.lower() != "model")


def upstream_bytes(request: Request, model: str, *, ask_usage: bool) -> bytes:
    return b"".join(chat.upstream_body(request, model, ask_usage=ask_usage))


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "auto", "messages": MESSAGES, **fields}).encode()


@given(unknown=st.dictionaries(FREE_NAMES, JSON_VALUES, max_size=5), position=st.integers(0, 5), ascii_=st.booleans())
def test_unknown_fields_reach_the_provider_byte_for_byte_for_any_position_of_model(unknown, position, ascii_):
    fields = list({"messages": MESSAGES, **unknown}.items())
    fields.insert(min(position, len(fields)), ("model", "auto"))
    raw = json.dumps(dict(fields), ensure_ascii=ascii_).encode("utf-8", "surrogatepass")
    try:
        request = chat.parse(raw)
    except BadRequest as error:
        assert "JSON" in error.message  # lone surrogates are not JSON text
        return
    start, end = request.model_span
    assert raw[start:end] == b'"auto"'
    assert upstream_bytes(request, "gpt-5", ask_usage=True) == raw[:start] + b'"gpt-5"' + raw[end:]


def test_big_numbers_and_field_order_are_unchanged():
    raw = b'{"z": 123456789012345678901234567890, "model" : "auto","a":1e400,"messages":[{"role":"user"}]}'
    assert upstream_bytes(chat.parse(raw), "m", ask_usage=False) == raw.replace(b'"auto"', b'"m"')


@pytest.mark.parametrize(
    "options, expected",
    [
        (b"", b'{"stream_options":{"include_usage":true},"model":"m"'),
        (b',"stream_options":null', b'"stream_options":{"include_usage":true}'),
        (b',"stream_options":{}', b'"stream_options":{"include_usage":true}'),
        (b',"stream_options":{"x":1}', b'"stream_options":{"include_usage":true,"x":1}'),
        (b',"stream_options":{"include_usage": false,"x":1}', b'"stream_options":{"include_usage": true,"x":1}'),
    ],
)
def test_usage_reporting_is_switched_on_and_nothing_else_changes(options, expected):
    raw = b'{"model":"auto","messages":[{"role":"user"}],"stream":true' + options + b"}"
    sent = upstream_bytes(chat.parse(raw), "m", ask_usage=True)
    assert expected in sent
    assert json.loads(sent)["stream_options"]["include_usage"] is True
    assert len(sent) <= len(raw) + 45


@pytest.mark.parametrize(
    "part",
    [
        b'"tools":[{"function":{"name":"\xff"}}]',
        b'"response_format":{"type":"\xff"}',
        b'"tools":7',
        b'"response_format":[1]',
    ],
)
def test_fields_that_only_the_provider_reads_are_forwarded_unchecked(part):
    raw = b'{"model":"auto","messages":[{"role":"user"}],' + part + b"}"
    assert upstream_bytes(chat.parse(raw), "m", ask_usage=True) == raw.replace(b'"auto"', b'"m"')


def test_usage_reporting_is_switched_on_at_the_top_level_only():
    raw = (
        b'{"model":"auto","metadata":{"stream_options":null,"include_usage":false},"messages":[{"role":"user"}],'
        b'"stream":true,"stream_options":{"x":{"include_usage":false},"include_usage":null}}'
    )
    sent = json.loads(upstream_bytes(chat.parse(raw), "m", ask_usage=True))
    assert sent["stream_options"] == {"x": {"include_usage": False}, "include_usage": True}
    assert sent["metadata"] == {"stream_options": None, "include_usage": False}


def test_a_body_that_requests_usage_is_forwarded_unchanged():
    raw = b'{"model":"auto","messages":[{"role":"user"}],"stream":true,"stream_options":{"include_usage":true}}'
    assert upstream_bytes(chat.parse(raw), "auto", ask_usage=True) == raw


def test_nested_model_keys_are_unchanged():
    raw = (
        b'{"tools":[{"function":{"name":"f","parameters":{"model": "x"}}}],"metadata":{"model":"y"},'
        b'"messages":[{"role":"user","content":[{"model":"z"}]}],"model":"auto"}'
    )
    request = chat.parse(raw)
    assert upstream_bytes(request, "m", ask_usage=True) == raw.replace(b'"auto"', b'"m"')
    assert request.tool_names == {"f"}


@pytest.mark.parametrize(
    "raw, code, param",
    [
        (b"", "invalid_json", None),
        (b"{", "invalid_json", None),
        (b'{"model":"a","messages":[],"x":NaN}', "invalid_json", None),
        (b'{"model":"a","messages":[{"role":"user","content":"\xff"}]}', "invalid_json", None),
        (b'{"model":"a","messages":[{"role":"u"}],"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid_json", None),
        (b"[]", "invalid_request", None),
        (b'{"messages":[{"role":"user"}]}', "invalid_request", "model"),
        (b'{"model":7,"messages":[{"role":"user"}]}', "invalid_request", "model"),
        (b'{"model":"","messages":[{"role":"user"}]}', "invalid_request", "model"),
        (b'{"model":"a","model":"b","messages":[{"role":"user"}]}', "invalid_request", "model"),
        (b'{"model":"a","mod\\u0065l":"a","messages":[{"role":"user"}]}', "invalid_request", "model"),
        (b'{"model":"a","model":"b","model":null,"messages":[{"role":"user"}]}', "invalid_request", "model"),
        (b'{"model":"a","Model":"b","messages":[{"role":"user"}]}', "invalid_request", "model"),
        (b'{"model":"a","\\u004dODEL":"b","messages":[{"role":"user"}]}', "invalid_request", "model"),
        (
            b'{"model":"a","messages":[{"role":"user"}],"stream":true,"stream_options":{"include_usage":0}}',
            "invalid_request",
            "stream_options.include_usage",
        ),
        (
            b'{"model":"a","messages":[{"role":"user"}],"stream":true,"stream_options":[1]}',
            "invalid_request",
            "stream_options",
        ),
        (
            b'{"model":"a","messages":[{"role":"user"}],"stream":true,"stream\\u005foptions":null}',
            "invalid_request",
            "stream_options",
        ),
        (
            b'{"model":"a","messages":[{"role":"user"}],"stream":true,"stream_options":{"\xff":1}}',
            "invalid_request",
            "stream_options",
        ),
        (b'{"model":"a"}', "invalid_request", "messages"),
        (b'{"model":"a","messages":[]}', "invalid_request", "messages"),
        (b'{"model":"a","messages":"hi"}', "invalid_request", "messages"),
        (b'{"model":"a","messages":[1]}', "invalid_request", "messages[0]"),
        (b'{"model":"a","messages":[{"role":"user","content":{}}]}', "invalid_request", "messages[0].content"),
        (b'{"model":"a","messages":[{"role":"user"}],"stream":"yes"}', "invalid_request", "stream"),
        (b'{"model":"a","messages":[{"role":"user"}],"max_tokens":-5}', "invalid_request", "max_tokens"),
        (b'{"model":"a","messages":[{"role":"user"}],"max_tokens":99999999999}', "invalid_request", "max_tokens"),
        (b'{"model":"a","messages":[{"role":"user"}],"max_tokens":true}', "invalid_request", "max_tokens"),
        (b'{"model":"a","messages":[{"role":"user"}],"n":1000}', "invalid_request", "n"),
    ],
)
def test_an_invalid_body_is_rejected_with_the_field_that_is_wrong(raw, code, param):
    with pytest.raises(BadRequest) as raised:
        chat.parse(raw)
    assert raised.value.code == code
    assert raised.value.param == param


@pytest.mark.parametrize(
    "fields, limit",
    [
        ({}, None),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 7}, 7),
        ({"max_tokens": 9, "max_completion_tokens": 7}, 9),
        ({"max_tokens": -1}, None),
        ({"max_tokens": 0}, None),
        ({"max_completion_tokens": 0, "max_tokens": 3}, 3),
    ],
    ids=[
        "none", "the older name", "the newer name", "the larger of both", "llama.cpp's and LM Studio's word for none",
        "for the provider to refuse, held as none", "zero under the newer name",
    ],
)  # fmt: skip
def test_the_output_limit_has_two_names(fields, limit):
    assert chat.parse(body(**fields)).max_output_tokens == limit


@pytest.mark.parametrize(
    "format_, has_schema",
    [
        ({"type": "json_schema", "json_schema": {}}, True),
        ({"type": "json_object"}, True),
        ({"type": "text"}, False),
        (None, False),
    ],
)
def test_a_response_format_other_than_text_is_a_schema(format_, has_schema):
    assert chat.parse(body(response_format=format_)).has_schema is has_schema


@pytest.mark.parametrize(
    "messages, state",
    [
        (MESSAGES, set()),
        ([{"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]}], {"file"}),
        ([{"role": "user", "content": [{"type": "file", "file": {"file_data": "data:x"}}, 7]}], set()),
        ([*MESSAGES, {"role": "assistant", "content": "x", "thinking_blocks": [{"type": "thinking"}]}], {"thinking"}),
        ([*MESSAGES, {"role": "assistant", "content": "x", "thinking_blocks": []}], set()),
        ([*MESSAGES, {"role": "assistant", "content": "x", "thinking_blocks": None}], set()),
    ],
    ids=["text", "a file by id", "an inline file", "signed thinking", "no thinking", "null thinking"],
)
def test_state_that_only_its_provider_can_read_is_named(messages, state):
    assert chat.parse(body(messages=messages)).provider_state == state


def test_sizes_count_characters_of_text_only():
    messages = [
        {"role": "user", "content": "Łódź"},
        {"role": "assistant"},
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
    ]
    assert chat.parse(body(messages=messages)).sizes == [4, 0, PARTS_SIZE]


def test_the_kept_head_of_the_tools_is_bounded():
    tools = [{"type": "function", "function": {"name": f"f{number}"}} for number in range(200)]
    request = chat.parse(body(tools=tools))
    assert len(request.tools_head) == TOOLS_BYTES_MAX and json.dumps(tools).encode().startswith(request.tools_head)
    assert request.tool_names == {f"f{number}" for number in range(200)}


def test_the_text_of_all_choices_is_counted():
    choices = [{"message": {"content": "ab"}}, {"message": {"refusal": "c"}}, {"message": None}, 7]
    assert chat.answer_text_bytes({"choices": choices}) == 3
    assert chat.answer_text_bytes({"choices": None}) == chat.answer_text_bytes({}) == 0
