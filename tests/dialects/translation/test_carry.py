"""What a crossing makes of a request: what arrives, what is said to be left out, what is refused by name."""

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
KNOWN = {
    "chat": {"messages": USER},
    "messages": {"messages": USER, "max_tokens": 9},
    "responses": {"input": "hi"},
}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}


def carried(dialect: str, to: str, *, extended: bool = False, **fields: object) -> TranslatedRequest:
    body = json.dumps({"model": "m", **KNOWN[dialect], **fields}).encode()
    found = Translator(PARSERS[dialect](body)).translate(to, extended=extended)
    if isinstance(found, NotTranslatable):
        raise found
    return found


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
        ("responses", "chat", {"input": [{"type": "reasoning", "encrypted_content": "theirs"}]}, "input.0.encrypted_content"),
        ("responses", "chat", {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}, "input.0.content.0.file_id"),
        ("responses", "messages", {"top_logprobs": 3}, "top_logprobs"),
        ("responses", "messages", {"next_year": 1}, "next_year"),
    ],
)  # fmt: skip
def test_what_has_no_counterpart_is_refused_by_name(dialect, to, fields, param):
    with pytest.raises(NotTranslatable) as refused:
        carried(dialect, to, **fields)
    assert refused.value.param == param


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
def test_what_no_answer_depends_on_is_left_out_and_told(dialect, to, fields, dropped):
    assert carried(dialect, to, **fields).dropped_fields == dropped


def test_names_that_callers_make_up_are_told_in_a_form_that_fits_a_header():
    turns = [
        {"role": "user", "content": "hi", "a\r\nset-cookie: x": 1, "ä" * 200: 1, **{f"n{n}": 1 for n in range(99)}}
    ]
    told = carried("chat", "messages", messages=turns).dropped_fields
    assert len(told) == 32 and "; ".join(told).isprintable() and "; ".join(told).isascii()


def test_values_that_say_nothing_are_no_reason_to_refuse():
    found = carried("chat", "messages", n=1, logprobs=False, logit_bias={}, presence_penalty=0, functions=[], stop=None)
    assert found.dropped_fields == ()


def test_tool_results_that_failed_say_so_in_words():
    blocks = [
        {
            "type": "tool_result",
            "tool_use_id": "t",
            "is_error": True,
            "content": [{"type": "text", "text": "no"}, IMAGE],
        }
    ]
    document = carried("messages", "chat", messages=[{"role": "user", "content": blocks}]).document
    assert document["messages"][0]["content"].startswith("Error: no\n")
    assert document["messages"][1]["content"][1]["type"] == "image_url", "a picture follows with the user's turn"


def test_ids_that_anthropic_does_not_take_are_replaced_alike_in_call_and_result():
    call = {"id": "call/1=", "type": "function", "function": {"name": "f", "arguments": "not json"}}
    history = [
        *USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call/1=", "content": "x"},
    ]
    messages = carried("chat", "messages", messages=history).document["messages"]
    use, result = messages[1]["content"][0], messages[2]["content"][0]
    assert use["id"] == result["tool_use_id"] and use["id"].replace("_", "").isalnum()
    assert use["input"] == {"invalid_arguments": "not json"}


def test_a_last_answer_without_tools_still_declares_those_of_the_history():
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    history = [
        *USER,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "x"},
    ]
    document = carried("chat", "messages", messages=history).document
    assert [tool["name"] for tool in document["tools"]] == ["f"]
    assert document["tool_choice"] == {"type": "none"}


def test_system_turns_are_hoisted_and_neighbours_of_one_role_are_one_turn():
    turns = [
        {"role": "system", "content": "a"},
        *USER,
        {"role": "developer", "content": "b"},
        {"role": "user", "content": "more"},
    ]
    document = carried("chat", "messages", messages=turns).document
    assert [block["text"] for block in document["system"]] == ["a", "b"]
    assert [message["role"] for message in document["messages"]] == ["user"]


def test_free_text_tools_become_functions_of_one_text_and_come_back():
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
    found = translator.translate("chat", extended=False)
    assert isinstance(found, TranslatedRequest)
    function = found.document["tools"][0]["function"]
    assert function["name"] == "functions__exec" and "start: X" in function["description"]
    back = translator.answer_translator(found, "chat", answer_id="a", created=1)
    call = {"id": "c1", "function": {"name": "functions__exec", "arguments": '{"input":"text(1)"}'}}
    answer = back.translate_document(
        {"choices": [{"message": {"tool_calls": [call]}, "finish_reason": "tool_calls"}], "usage": None}
    )
    item = answer["output"][0]
    assert (item["type"], item["name"], item["namespace"], item["input"]) == (
        "custom_tool_call",
        "exec",
        "functions",
        "text(1)",
    )


def test_any_json_object_is_asked_for_by_a_tool_and_comes_back_as_text():
    translator = Translator(
        PARSERS["chat"](
            json.dumps({"model": "m", "messages": USER, "response_format": {"type": "json_object"}}).encode()
        )
    )
    found = translator.translate("messages", extended=False)
    assert isinstance(found, TranslatedRequest) and found.document["tool_choice"]["type"] == "tool"
    content = [{"type": "tool_use", "id": "t", "name": "json_answer", "input": {"a": 1}}]
    answer = translator.answer_translator(found, "messages", answer_id="a", created=1).translate_document(
        {"content": content, "stop_reason": "tool_use"}
    )
    assert answer["choices"][0]["message"]["content"] == '{"a":1}'
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_cache_marks_and_signatures_reach_claude_through_litellm():
    thinking = {"type": "thinking", "thinking": "x", "signature": "s"}
    system = [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]
    turns = [*USER, {"role": "assistant", "content": [thinking, {"type": "text", "text": "y"}]}, *USER]
    document = carried("messages", "chat", extended=True, system=system, messages=turns).document
    assert document["messages"][0]["content"][0]["cache_control"] == {"type": "ephemeral"}
    assert document["messages"][2]["thinking_blocks"] == [thinking]


@pytest.mark.parametrize(
    "speaks, speech",
    [(("chat", "responses"), "responses"), (("chat",), "chat"), (("messages",), "messages"), (("embeddings",), None)],
)
def test_the_caller_s_own_dialect_comes_first(speaks, speech):
    assert upstream_dialect_of("responses", speaks) == speech


@pytest.mark.parametrize(
    "more, expected",
    [
        ("", {}),
        (", reasoning: true", {"thinking": {"type": "enabled", "budget_tokens": 3999}}),
        (
            ", reasoning: true, adaptive_thinking: true",
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}},
        ),
    ],
    ids=["a model that does not reason", "one that takes a budget", "one that decides itself"],
)
def test_how_to_think_is_told_as_the_model_takes_it(more, expected):
    deployment = snapshot(small=more).deployments["small"]
    document = {"messages": [], "thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}
    sent = json.loads(anthropic.encode_body(document, "messages", deployment))
    assert sent == {"model": "sim-small", "max_tokens": 4000, "messages": [], **expected}


def test_an_effort_is_left_out_where_models_do_not_reason():
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
def test_whatever_shape_a_field_has_the_request_is_carried_or_refused_by_name(dialect, data):
    wrong = data.draw(st.dictionaries(st.sampled_from(NAMES[dialect]), SHAPES, max_size=4))
    try:
        request = PARSERS[dialect](json.dumps({"model": "m", **KNOWN[dialect], **wrong}).encode())
    except BadRequest:
        return
    for to in {"chat": ("messages",), "messages": ("chat",), "responses": ("chat", "messages")}[dialect]:
        for extended in (False, True):
            assert isinstance(Translator(request).translate(to, extended=extended), TranslatedRequest | NotTranslatable)


def test_what_nests_too_deeply_to_be_written_again_is_refused():
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
def test_nothing_reaches_litellm_that_would_steer_it(fields, param):
    body = json.dumps({"model": "m", **KNOWN["chat"], **fields}).encode()
    refused = Translator(PARSERS["chat"](body)).litellm_refusal("chat")
    assert refused is not None and refused.param == param


def test_the_fields_of_chat_completions_reach_litellm():
    fields = {
        "temperature": 0.5,
        "tools": [],
        "stream": True,
        "response_format": {"type": "text"},
        "metadata": {"a": 1},
    }
    body = json.dumps({"model": "m", **KNOWN["chat"], **fields}).encode()
    assert Translator(PARSERS["chat"](body)).litellm_refusal("chat") is None


def test_reasoning_goes_with_the_turn_that_it_led_to():
    def seal(text: str) -> dict:
        blocks = [{"type": "thinking", "thinking": text, "signature": "s"}]
        sealed = SEALED_REASONING_PREFIX + base64.b64encode(json.dumps(blocks).encode()).decode()
        return {"type": "reasoning", "summary": [], "encrypted_content": sealed}

    def call(name: str) -> dict:
        return {"type": "function_call", "call_id": name, "name": "f", "arguments": "{}"}

    items = [
        {"role": "user", "content": "x"},
        seal("lost"),
        {"role": "user", "content": "y"},
        seal("1"),
        call("a"),
        seal("2"),
        call("b"),
    ]
    found = carried("responses", "messages", input=items)
    turn = found.document["messages"][-1]["content"]
    assert [block.get("thinking", block["type"]) for block in turn] == ["1", "2", "tool_use", "tool_use"]
    assert found.dropped_fields == ("reasoning of earlier turns",)


@pytest.mark.parametrize(
    "schema, strict",
    [
        ({"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": False}, True),
        ({"type": "object", "properties": {"a": {}}, "required": [], "additionalProperties": False}, False),
        ({"type": "object", "properties": {"a": {}}, "required": ["a"]}, False),
    ],
)
def test_a_schema_is_strict_only_where_openai_takes_it_so(schema, strict):
    document = carried("messages", "chat", output_config={"format": {"type": "json_schema", "schema": schema}}).document
    assert document["response_format"]["json_schema"]["strict"] is strict
