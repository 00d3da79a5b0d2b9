"""The translator: one dialect to another, each once; translated streams; what litellm may receive."""

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects import DIALECTS, PARSERS
from gateway.dialects.translation import TranslatedStream, Translator, upstream_dialect_of
from gateway.dialects.translation.translated import TranslatedRequest
from gateway.values.errors import BadRequest, NotTranslatable
from tests.dialects import stream_checks
from tests.dialects.streams import (
    CUTS,
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    RAW,
    REASONS,
    RECORDED,
    STREAM_REQUESTS,
    STREAMS,
    boundaries,
    check_stream,
    pieces,
    provider_reasons,
    run,
)
from tests.dialects.translation.dialect_clients import CLIENTS
from tests.dialects.translation.translating import MINIMAL_BODIES, translator

TRANSLATED_CASES = [
    (caller, upstream, name)
    for caller, upstream in (
        ("messages", "chat"),
        ("responses", "chat"),
        ("chat", "messages"),
        ("responses", "messages"),
    )
    for name in STREAMS[upstream]
]


@pytest.mark.parametrize(
    "supported, expected",
    [(("chat", "responses"), "responses"), (("chat",), "chat"), (("messages",), "messages"), (("embeddings",), None)],
)
def test_the_caller_s_own_dialect_comes_first(supported, expected):
    assert upstream_dialect_of("responses", supported) == expected


def test_a_request_is_translated_once_to_each_dialect():
    translator_ = translator("responses")
    first = translator_.translate("chat", extended=False)
    assert translator_.translate("chat", extended=False) is first
    assert translator_.translate("chat", extended=True) is not first
    assert translator_.translate("messages", extended=False) is not first


def test_a_request_that_was_refused_stays_refused():
    translator_ = translator("chat", n=2)
    refused = translator_.translate("messages", extended=False)
    assert isinstance(refused, NotTranslatable) and translator_.translate("messages", extended=False) is refused


def translate_stream(caller: str, upstream: str, chunks: Iterable[bytes], *, end_early: bool = False) -> bytes:
    """The caller's stream for chunks of the provider's; `end_early`: the gateway ends it after them."""
    request = PARSERS[caller](STREAM_REQUESTS[caller])
    translator = Translator(request)
    translated = translator.translate(upstream, extended=False)
    assert isinstance(translated, TranslatedRequest)
    stream = TranslatedStream(
        translator.answer_translator(translated, upstream, answer_id="a1", created=7), chat=caller == "chat"
    )
    meter = DIALECTS[upstream].stream_meter(request)
    meter.may_end_early = end_early
    out = b"".join(stream.feed(meter.feed(chunk)) for chunk in chunks)
    rest = meter.end_early(INPUT_TOKENS, OUTPUT_TOKENS) if end_early else meter.finish()
    return out + stream.feed(rest) + stream.finish()


@pytest.mark.parametrize("caller, upstream, name", TRANSLATED_CASES)
@given(cuts=CUTS)
@settings(max_examples=40, deadline=None)
def test_any_chunking_is_translated_to_the_same_bytes(caller, upstream, name, cuts):
    raw = (RECORDED / f"{name}.sse").read_bytes()
    assert translate_stream(caller, upstream, pieces(raw, cuts)) == translate_stream(caller, upstream, [raw])


@pytest.mark.parametrize("caller, upstream, name", [case for case in TRANSLATED_CASES if "error" not in case[2]])
def test_a_translated_stream_is_complete_in_the_caller_s_dialect(caller, upstream, name):
    raw = (RECORDED / f"{name}.sse").read_bytes()
    out, meter = run(caller, translate_stream(caller, upstream, [raw]), [])
    assert meter.done and meter.usage, "it has the end mark and usage"
    answer = CLIENTS[caller].parse_stream(out)
    cities = [arguments["city"] for _, _, arguments in answer.tool_calls]
    assert "Grüße, 世界" in answer.text or cities == ["Łódź", "Oslo"]


@pytest.mark.parametrize("caller, upstream, name", [case for case in TRANSLATED_CASES if "error" not in case[2]])
def test_an_ending_is_translated_to_the_caller_s_dialect(caller, upstream, name):
    raw = RAW[name]
    for at in boundaries(raw):
        reasons = check_stream(caller, translate_stream(caller, upstream, [raw[: at + 3]], end_early=True))
        if not provider_reasons(upstream, raw[:at]):
            assert reasons == {REASONS[caller]}


@pytest.mark.parametrize("caller, upstream, name", [case for case in TRANSLATED_CASES if "error" not in case[2]])
def test_a_translated_ending_reports_usage(caller, upstream, name):
    raw = RAW[name]
    ended = translate_stream(caller, upstream, [raw[: boundaries(raw)[4] + 3]], end_early=True)
    events = stream_checks.payloads(ended)
    usage = next(
        event["usage"] if "usage" in event else event["response"]["usage"]
        for event in reversed(events)
        if event.get("usage") or "response" in event
    )
    assert usage.get("output_tokens", usage.get("completion_tokens")) == OUTPUT_TOKENS


NAMES = {
    "chat": ["messages", "tools", "tool_choice", "response_format", "temperature", "stop", "n", "logit_bias", "reasoning_effort", "stream_options", "functions", "user", "max_tokens"],
    "messages": ["messages", "system", "tools", "tool_choice", "thinking", "output_config", "output_format", "stop_sequences", "metadata", "top_k", "max_tokens"],
    "responses": ["input", "instructions", "tools", "tool_choice", "text", "reasoning", "include", "previous_response_id", "metadata", "conversation"],
}  # fmt: skip


KEYS = st.sampled_from(
    ["type", "role", "content", "text", "name", "id", "input", "arguments", "function", "tools", "source", "data", "url", "image_url", "tool_calls", "call_id", "output", "schema", "format", "json_schema", "effort", "summary"]
)  # fmt: skip


SHAPES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["text", "user", "assistant", "tool_use", "tool_result", "function", "image", "auto", "", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=14,
)  # fmt: skip


@pytest.mark.parametrize("dialect", NAMES)
@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_a_field_of_any_shape_is_translated_or_refused_by_name(dialect, data):
    fields = data.draw(st.dictionaries(st.sampled_from(NAMES[dialect]), SHAPES, max_size=4))
    try:
        request = PARSERS[dialect](json.dumps({"model": "m", **MINIMAL_BODIES[dialect], **fields}).encode())
    except BadRequest:
        return
    for to in {"chat": ("messages",), "messages": ("chat",), "responses": ("chat", "messages")}[dialect]:
        for extended in (False, True):
            assert isinstance(Translator(request).translate(to, extended=extended), TranslatedRequest | NotTranslatable)


def test_nesting_too_deep_to_serialize_is_refused():
    deep = "[" * 300 + "]" * 300
    request = PARSERS["responses"](b'{"model":"m","input":"x","metadata":' + deep.encode() + b"}")
    assert isinstance(Translator(request).translate("chat", extended=False), NotTranslatable)


@pytest.mark.parametrize(
    "fields, param",
    [
        ({"api_base": "http://elsewhere"}, "api_base"),
        ({"base_url": "http://elsewhere"}, "base_url"),
        ({"mock_response": "free"}, "mock_response"),
        ({"custom_llm_provider": "openai"}, "custom_llm_provider"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://inside/x.png"}}]}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [5]}]}, "messages.0.content"),
    ],
)  # fmt: skip
def test_fields_that_would_control_litellm_are_refused(fields, param):
    refusal = translator("chat", **fields).litellm_refusal("chat")
    assert refusal is not None and refusal.param == param


def test_chat_completions_fields_are_allowed_for_litellm():
    fields: dict[str, Any] = {
        "temperature": 0.5,
        "tools": [],
        "stream": True,
        "response_format": {"type": "text"},
        "metadata": {"a": 1},
    }
    assert translator("chat", **fields).litellm_refusal("chat") is None


def test_what_litellm_must_not_receive_is_refused_in_a_translation_too():
    image = {"type": "image", "source": {"type": "url", "url": "http://inside/x.png"}}
    request = translator("messages", messages=[{"role": "user", "content": [image]}])
    assert isinstance(request.translate("chat", extended=False), TranslatedRequest)
    refused = request.translate("chat", extended=True)
    assert isinstance(refused, NotTranslatable) and refused.param == "messages.0.content"
