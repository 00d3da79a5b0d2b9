"""Chat-completions bodies: parsed once, forwarded unchanged but for two splices; errors and refusals."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects import chat
from gateway.values.errors import BadRequest, Overloaded, Unauthenticated
from gateway.values.plan import Refusal

MESSAGES = [{"role": "user", "content": "hi"}]
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
FREE_NAMES = st.text(min_size=1).filter(
    lambda name: name not in chat._ChatFields.__struct_encode_fields__ and name.lower() not in ("model", "_odel")
)


def upstream_bytes(request, model: str, *, ask_usage: bool) -> bytes:
    return b"".join(chat.upstream_body(request, model, ask_usage=ask_usage))


def body(**fields: object) -> bytes:
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
        (
            b'{"model":"a","messages":[{"role":"user"}],"max_completion_tokens":0}',
            "invalid_request",
            "max_completion_tokens",
        ),
        (b'{"model":"a","messages":[{"role":"user"}],"n":1000}', "invalid_request", "n"),
    ],
)
def test_an_invalid_body_is_rejected_with_the_field_that_is_wrong(raw, code, param):
    with pytest.raises(BadRequest) as raised:
        chat.parse(raw)
    assert raised.value.code == code
    assert raised.value.param == param


def test_a_refusal_is_400_without_retry_unless_waiting_helps():
    refused = chat.refusal_response(Refusal(code="budget_exceeded", message="used up", details={"used": 1}))
    assert (refused.status, refused.headers["x-should-retry"]) == (400, "false")
    assert json.loads(refused.body)["error"]["details"] == {"used": 1}
    delayed = chat.refusal_response(Refusal(code="x", message="soon", retry_after_seconds=3))
    assert (delayed.status, delayed.headers["retry-after"]) == (429, "3")


def test_errors_have_openai_s_shape():
    answer = chat.error_response(Unauthenticated("no"))
    assert json.loads(answer.body)["error"] == {
        "message": "no", "type": "invalid_request_error", "param": None, "code": "invalid_api_key",
    }  # fmt: skip
    assert "x-should-retry" not in chat.error_response(Overloaded("busy")).headers
