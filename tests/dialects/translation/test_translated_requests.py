"""Translated requests: what is translated, what is reported as dropped, what is refused by name."""

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects import PARSERS
from gateway.dialects.responses import SEALED_REASONING_PREFIX
from gateway.dialects.translation import Translator, upstream_dialect_of
from gateway.dialects.translation.translated import TranslatedRequest
from gateway.providers import anthropic, openai_compatible
from gateway.values.errors import BadRequest, NotTranslatable
from tests.snapshots import snapshot

USER = [{"role": "user", "content": "hi"}]
FUNCTION = {"name": "f", "parameters": {"type": "object"}}
MINIMAL_BODIES = {
    "chat": {"messages": USER},
    "messages": {"messages": USER, "max_tokens": 9},
    "responses": {"input": "hi"},
}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}


def translate(dialect: str, to: str, *, extended: bool = False, **fields: object) -> TranslatedRequest:
    body = json.dumps({"model": "m", **MINIMAL_BODIES[dialect], **fields}).encode()
    translated = Translator(PARSERS[dialect](body)).translate(to, extended=extended)
    if isinstance(translated, NotTranslatable):
        raise translated
    return translated


@pytest.mark.parametrize(
    "dialect, to, fields, param",
    [
        ("chat", "messages", {"n": 2}, "n"),
        ("chat", "messages", {"logprobs": True}, "logprobs"),
        ("chat", "messages", {"logit_bias": {"1": 5}}, "logit_bias"),
        ("chat", "messages", {"presence_penalty": 0.5}, "presence_penalty"),
        ("chat", "messages", {"temperature": 1.5}, "temperature"),
        ("chat", "messages", {"modalities": ["text", "audio"]}, "modalities"),
        ("chat", "messages", {"audio": {"voice": "x"}}, "audio"),
        ("chat", "messages", {"web_search_options": {}}, "web_search_options"),
        ("chat", "messages", {"functions": [{"name": "f"}]}, "functions"),
        ("chat", "messages", {"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools.0"),
        ("chat", "messages", {"tools": [{"type": "function", "function": FUNCTION}], "tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
        ("chat", "messages", {"tools": [{"type": "function", "function": FUNCTION}], "response_format": {"type": "json_object"}}, "response_format"),
        ("chat", "messages", {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]}, "messages.0.content.0"),
        ("chat", "messages", {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]}]}, "messages.0.content.0.file"),
        ("chat", "messages", {"next_year": {"a": 1}}, "next_year"),
        ("messages", "chat", {"top_k": 5}, "top_k"),
        ("messages", "chat", {"stop_sequences": list("abcde")}, "stop_sequences"),
        ("messages", "chat", {"container": "c"}, "container"),
        ("messages", "chat", {"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
        ("messages", "chat", {"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools.0"),
        ("messages", "chat", {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0"),
        ("messages", "chat", {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]}]}, "messages.0.content.0.source"),
        ("messages", "chat", {"messages": [*USER, {"role": "assistant", "content": [{"type": "thinking", "thinking": "x", "signature": "s"}]}]}, "messages.1.content.0"),
        ("messages", "chat", {"messages": [{"role": "user", "content": [{"type": "search_result"}]}]}, "messages.0.content.0"),
        ("messages", "chat", {"next_year": 1}, "next_year"),
        ("responses", "chat", {"previous_response_id": "resp_1"}, "previous_response_id"),
        ("responses", "chat", {"conversation": "conv_1"}, "conversation"),
        ("responses", "chat", {"background": True}, "background"),
        ("responses", "chat", {"prompt": {"id": "p"}}, "prompt"),
        ("responses", "chat", {"tools": [{"type": "code_interpreter"}]}, "tools.0"),
        ("responses", "chat", {"input": [{"type": "item_reference", "id": "x"}]}, "input.0"),
        ("responses", "chat", {"input": [{"type": "reasoning", "encrypted_content": "opaque"}]}, "input.0.encrypted_content"),
        ("responses", "chat", {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}, "input.0.content.0.file_id"),
        ("responses", "messages", {"top_logprobs": 3}, "top_logprobs"),
        ("responses", "messages", {"next_year": 1}, "next_year"),
    ],
)  # fmt: skip
def test_a_field_without_a_counterpart_is_refused_by_name(dialect, to, fields, param):
    with pytest.raises(NotTranslatable) as raised:
        translate(dialect, to, **fields)
    assert raised.value.param == param


@pytest.mark.parametrize(
    "dialect, to, fields, dropped",
    [
        (
            "chat",
            "messages",
            {"store": True, "seed": 7, "prompt_cache_key": "k"},
            ("store", "prompt_cache_key", "seed"),
        ),
        (
            "messages",
            "chat",
            {"metadata": {"user_id": "u"}, "context_management": {"edits": []}},
            ("metadata", "context_management"),
        ),
        (
            "messages",
            "chat",
            {"system": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]},
            ("cache_control",),
        ),
        (
            "responses",
            "chat",
            {"metadata": {"a": "b"}, "client_metadata": {}, "store": False, "include": []},
            ("metadata", "client_metadata"),
        ),
        (
            "responses",
            "chat",
            {"tools": [{"type": "function", **FUNCTION}, {"type": "web_search"}]},
            ("tools.web_search",),
        ),
        (
            "responses",
            "messages",
            {"stream": True, "stream_options": {"include_obfuscation": False}},
            ("stream_options",),
        ),
    ],
)
def test_a_field_that_no_answer_depends_on_is_dropped_and_reported(dialect, to, fields, dropped):
    assert translate(dialect, to, **fields).dropped_fields == dropped


def test_dropped_names_fit_a_header_whatever_callers_choose():
    turns = [
        {
            "role": "user",
            "content": "hi",
            "a\r\nset-cookie: x": 1,
            "ä" * 200: 1,
            **{f"n{number}": 1 for number in range(99)},
        }
    ]
    dropped = translate("chat", "messages", messages=turns).dropped_fields
    assert len(dropped) == 32 and "; ".join(dropped).isprintable() and "; ".join(dropped).isascii()


def test_default_values_are_accepted():
    translated = translate(
        "chat", "messages", n=1, logprobs=False, logit_bias={}, presence_penalty=0, functions=[], stop=None
    )
    assert translated.dropped_fields == ()


def test_a_failed_tool_result_begins_with_error():
    blocks = [
        {
            "type": "tool_result",
            "tool_use_id": "t",
            "is_error": True,
            "content": [{"type": "text", "text": "no"}, IMAGE],
        }
    ]
    document = translate("messages", "chat", messages=[{"role": "user", "content": blocks}]).document
    assert document["messages"][0]["content"].startswith("Error: no\n")
    assert document["messages"][1]["content"][1]["type"] == "image_url", "its image follows in a user message"


def test_call_ids_that_anthropic_rejects_are_replaced_in_call_and_result():
    call = {"id": "call/1=", "type": "function", "function": {"name": "f", "arguments": "not json"}}
    history = [
        *USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call/1=", "content": "x"},
    ]
    messages = translate("chat", "messages", messages=history).document["messages"]
    use, result = messages[1]["content"][0], messages[2]["content"][0]
    assert use["id"] == result["tool_use_id"] and use["id"].replace("_", "").isalnum()
    assert use["input"] == {"invalid_arguments": "not json"}


def test_a_request_without_tools_declares_those_of_its_history():
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    history = [
        *USER,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "x"},
    ]
    document = translate("chat", "messages", messages=history).document
    assert [tool["name"] for tool in document["tools"]] == ["f"]
    assert document["tool_choice"] == {"type": "none"}


def test_system_messages_are_hoisted_and_consecutive_ones_of_a_role_are_merged():
    turns = [
        {"role": "system", "content": "a"},
        *USER,
        {"role": "developer", "content": "b"},
        {"role": "user", "content": "more"},
    ]
    document = translate("chat", "messages", messages=turns).document
    assert [block["text"] for block in document["system"]] == ["a", "b"]
    assert [message["role"] for message in document["messages"]] == ["user"]


def test_a_free_text_tool_becomes_a_function_and_its_call_is_translated_back():
    tool = {
        "type": "namespace",
        "name": "functions",
        "tools": [
            {
                "type": "custom",
                "name": "exec",
                "format": {"type": "grammar", "syntax": "lark", "definition": "start: X"},
            }
        ],
    }
    body = json.dumps({"model": "m", "input": [{"type": "additional_tools", "tools": [tool]}, *USER]}).encode()
    translator = Translator(PARSERS["responses"](body))
    translated = translator.translate("chat", extended=False)
    assert isinstance(translated, TranslatedRequest)
    function = translated.document["tools"][0]["function"]
    assert function["name"] == "functions__exec" and "start: X" in function["description"]
    answer_translator = translator.answer_translator(translated, "chat", answer_id="a", created=1)
    call = {"id": "c1", "function": {"name": "functions__exec", "arguments": '{"input":"text(1)"}'}}
    answer = answer_translator.translate_document(
        {"choices": [{"message": {"tool_calls": [call]}, "finish_reason": "tool_calls"}], "usage": None}
    )
    item = answer["output"][0]
    assert (item["type"], item["name"], item["namespace"], item["input"]) == (
        "custom_tool_call",
        "exec",
        "functions",
        "text(1)",
    )


def test_json_object_format_becomes_a_forced_tool_and_its_input_the_text():
    translator = Translator(
        PARSERS["chat"](
            json.dumps({"model": "m", "messages": USER, "response_format": {"type": "json_object"}}).encode()
        )
    )
    translated = translator.translate("messages", extended=False)
    assert isinstance(translated, TranslatedRequest) and translated.document["tool_choice"]["type"] == "tool"
    content = [{"type": "tool_use", "id": "t", "name": "json_answer", "input": {"a": 1}}]
    answer = translator.answer_translator(translated, "messages", answer_id="a", created=1).translate_document(
        {"content": content, "stop_reason": "tool_use"}
    )
    assert answer["choices"][0]["message"]["content"] == '{"a":1}'
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_cache_control_and_signatures_reach_an_extended_target():
    thinking = {"type": "thinking", "thinking": "x", "signature": "s"}
    system = [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]
    turns = [*USER, {"role": "assistant", "content": [thinking, {"type": "text", "text": "y"}]}, *USER]
    document = translate("messages", "chat", extended=True, system=system, messages=turns).document
    assert document["messages"][0]["content"][0]["cache_control"] == {"type": "ephemeral"}
    assert document["messages"][2]["thinking_blocks"] == [thinking]


@pytest.mark.parametrize(
    "supported, expected",
    [(("chat", "responses"), "responses"), (("chat",), "chat"), (("messages",), "messages"), (("embeddings",), None)],
)
def test_the_caller_s_own_dialect_comes_first(supported, expected):
    assert upstream_dialect_of("responses", supported) == expected


@pytest.mark.parametrize(
    "config, expected",
    [
        ("", {}),
        (", reasoning: true", {"thinking": {"type": "enabled", "budget_tokens": 3999}}),
        (
            ", reasoning: true, adaptive_thinking: true",
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}},
        ),
    ],
    ids=["no reasoning", "thinking budget", "adaptive thinking"],
)
def test_thinking_is_set_in_the_form_that_the_model_accepts(config, expected):
    deployment = snapshot(small=config).deployments["small"]
    document = {"messages": [], "thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}
    sent = json.loads(anthropic.encode_body(document, "messages", deployment))
    assert sent == {"model": "sim-small", "max_tokens": 4000, "messages": [], **expected}


def test_reasoning_effort_is_dropped_for_a_model_that_does_not_reason():
    document = {"messages": [], "reasoning_effort": "low"}
    sent = json.loads(openai_compatible.encode_body(document, "chat", snapshot().deployments["small"]))
    assert sent == {"model": "sim-small", "messages": []}


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
    body = json.dumps({"model": "m", **MINIMAL_BODIES["chat"], **fields}).encode()
    refusal = Translator(PARSERS["chat"](body)).litellm_refusal("chat")
    assert refusal is not None and refusal.param == param


def test_chat_completions_fields_are_allowed_for_litellm():
    fields = {
        "temperature": 0.5,
        "tools": [],
        "stream": True,
        "response_format": {"type": "text"},
        "metadata": {"a": 1},
    }
    body = json.dumps({"model": "m", **MINIMAL_BODIES["chat"], **fields}).encode()
    assert Translator(PARSERS["chat"](body)).litellm_refusal("chat") is None


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


@pytest.mark.parametrize(
    "schema, strict",
    [
        ({"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": False}, True),
        ({"type": "object", "properties": {"a": {}}, "required": [], "additionalProperties": False}, False),
        ({"type": "object", "properties": {"a": {}}, "required": ["a"]}, False),
    ],
)
def test_a_schema_is_strict_only_if_openai_accepts_it_as_strict(schema, strict):
    document = translate(
        "messages", "chat", output_config={"format": {"type": "json_schema", "schema": schema}}
    ).document
    assert document["response_format"]["json_schema"]["strict"] is strict
