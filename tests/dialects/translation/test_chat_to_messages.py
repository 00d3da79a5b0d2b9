"""Chat-completions requests to Messages, and Messages answers back."""

import re
from typing import Any

import pytest

from gateway.values.errors import NotTranslatable
from tests.dialects.translation.translating import FUNCTION, USER, answer_translator, translate


@pytest.mark.parametrize(
    "fields, param",
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"temperature": 1.5}, "temperature"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools.0"),
        ({"tools": [{"type": "function", "function": FUNCTION}], "tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
        ({"tools": [{"type": "function", "function": FUNCTION}], "response_format": {"type": "json_object"}}, "response_format"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]}, "messages.0.content.0"),
        ({"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]}]}, "messages.0.content.0.file"),
        ({"next_year": {"a": 1}}, "next_year"),
    ],
)  # fmt: skip
def test_a_field_without_a_counterpart_is_refused_by_name(fields, param):
    with pytest.raises(NotTranslatable) as raised:
        translate("chat", "messages", **fields)
    assert raised.value.param == param


@pytest.mark.parametrize(
    "fields, dropped",
    [
        ({"store": True, "seed": 7, "prompt_cache_key": "k"}, ("store", "prompt_cache_key", "seed")),
    ],
)
def test_a_field_that_no_answer_depends_on_is_dropped_and_reported(fields, dropped):
    assert translate("chat", "messages", **fields).dropped_fields == dropped


def test_default_values_are_accepted():
    translated = translate(
        "chat", "messages", n=1, logprobs=False, logit_bias={}, presence_penalty=0, functions=[], stop=None
    )
    assert translated.dropped_fields == ()


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


def test_json_object_format_becomes_a_forced_tool_and_its_input_the_text():
    format_: dict[str, Any] = {"response_format": {"type": "json_object"}}
    assert translate("chat", "messages", **format_).document["tool_choice"]["type"] == "tool"
    content = [{"type": "tool_use", "id": "t", "name": "json_answer", "input": {"a": 1}}]
    answer = answer_translator("chat", "messages", **format_).translate_document(
        {"content": content, "stop_reason": "tool_use"}
    )
    assert answer["choices"][0]["message"]["content"] == '{"a":1}'
    assert answer["choices"][0]["finish_reason"] == "stop"


TOOLS = [{"type": "function", "function": FUNCTION}]


@pytest.mark.parametrize(
    "fields, expected",
    [
        ({"tools": TOOLS, "tool_choice": "required"}, {"type": "any"}),
        ({"tools": TOOLS, "tool_choice": "none"}, {"type": "none"}),
        (
            {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "f"}}},
            {"type": "tool", "name": "f"},
        ),
        ({"tools": TOOLS, "parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
        ({"tools": TOOLS, "tool_choice": "none", "parallel_tool_calls": False}, {"type": "none"}),
        ({"tools": TOOLS}, None),
        ({"tool_choice": "auto"}, None),
    ],
    ids=["required", "none", "a tool", "no parallel calls", "none has no parallel calls", "no choice", "no tools"],
)
def test_a_tool_choice_is_translated(fields, expected):
    assert translate("chat", "messages", **fields).document.get("tool_choice") == expected


@pytest.mark.parametrize(
    "url, source",
    [
        ("data:image/png;base64,AAAA", {"type": "base64", "media_type": "image/png", "data": "AAAA"}),
        ("https://example.com/a.png", {"type": "url", "url": "https://example.com/a.png"}),
    ],
)
def test_an_image_is_inline_or_a_url(url, source):
    content = [{"type": "image_url", "image_url": {"url": url}}]
    document = translate("chat", "messages", messages=[{"role": "user", "content": content}]).document
    assert document["messages"][0]["content"] == [{"type": "image", "source": source}]


def test_a_data_url_that_is_not_base64_is_refused():
    content = [{"type": "image_url", "image_url": {"url": "data:text/plain,hi"}}]
    with pytest.raises(NotTranslatable, match="must be base64"):
        translate("chat", "messages", messages=[{"role": "user", "content": content}])


@pytest.mark.parametrize(
    "messages", [[{"role": "system", "content": "x"}], [{"role": "user", "content": " "}]], ids=["system only", "blank"]
)
def test_a_history_without_a_message_is_refused(messages):
    with pytest.raises(NotTranslatable, match="at least one message"):
        translate("chat", "messages", messages=messages)


def test_trailing_white_space_of_a_prefill_is_removed():
    messages = [*USER, {"role": "assistant", "content": "The answer: \n"}]
    document = translate("chat", "messages", messages=messages).document
    assert document["messages"][-1]["content"] == [{"type": "text", "text": "The answer:"}]


@pytest.mark.parametrize(
    "effort, config, thinking",
    [
        ("low", {"effort": "low"}, {"type": "adaptive"}),
        ("minimal", {"effort": "low"}, {"type": "adaptive"}),
        ("none", None, None),
    ],
)
def test_reasoning_effort_becomes_adaptive_thinking(effort, config, thinking):
    document = translate("chat", "messages", reasoning_effort=effort).document
    assert (document.get("output_config"), document.get("thinking")) == (config, thinking)


def test_a_tool_turn_without_its_thinking_is_continued_without_thinking():
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turn = [*USER, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "c", "content": "x"}]
    translated = translate("chat", "messages", messages=turn, tools=TOOLS, reasoning_effort="low")
    assert "thinking" not in translated.document
    assert translated.dropped_fields == ("reasoning_effort (its thinking of this tool turn was not sent back)",)


def test_the_schema_of_an_answer_is_an_output_format():
    format_ = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}
    document = translate("chat", "messages", response_format=format_).document
    schema = {"type": "object", "additionalProperties": False}
    assert document["output_config"] == {"format": {"type": "json_schema", "schema": schema}}


@pytest.mark.parametrize("effort", ["default", "ultra", "", 3, {"a": 1}])
def test_an_effort_that_anthropic_lacks_is_dropped_and_named(effort):
    """Groq's Qwen models have `default` (console.groq.com, reasoning, 2026-11)."""
    translated = translate("chat", "messages", reasoning_effort=effort)
    assert not translated.document.keys() & {"output_config", "thinking"}
    assert translated.dropped_fields == ("reasoning_effort (no such value at Anthropic)",)


def test_tools_without_a_type_and_repetitions_are_accepted():
    document = translate("chat", "messages", tools=[{"function": FUNCTION}, {"function": FUNCTION}]).document
    assert [tool["name"] for tool in document["tools"]] == ["f"]


LONG_NAME = "mcp__" + "n" * 90


@pytest.mark.parametrize("name", [LONG_NAME, "a.b", "händler"])
def test_a_tool_name_that_anthropic_refuses_is_replaced_everywhere_and_restored(name):
    tools = [{"type": "function", "function": {"name": name}}]
    call = {"id": "c", "type": "function", "function": {"name": name, "arguments": "{}"}}
    history = [
        *USER,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "x"},
    ]
    fields: dict[str, Any] = {"tools": tools, "messages": history}
    fields["tool_choice"] = {"type": "function", "function": {"name": name}}
    document = translate("chat", "messages", **fields).document
    (short,) = {
        document["tools"][0]["name"],
        document["tool_choice"]["name"],
        document["messages"][1]["content"][0]["name"],
    }
    assert short != name and len(short) <= 64 and re.fullmatch("[a-zA-Z0-9_-]+", short)
    answer = {"content": [{"type": "tool_use", "id": "t", "name": short, "input": {}}], "stop_reason": "tool_use"}
    message = answer_translator("chat", "messages", **fields).translate_document(answer)["choices"][0]["message"]
    assert message["tool_calls"][0]["function"]["name"] == name


def test_a_user_too_long_for_anthropic_is_dropped_and_named():
    translated = translate("chat", "messages", user="u" * 257)
    assert ("metadata" in translated.document, translated.dropped_fields) == (False, ("user",))


def test_what_anthropic_refuses_of_a_schema_is_dropped_and_named():
    schema = {"type": "object", "properties": {"a": {"type": "string", "minLength": 1}}}
    format_ = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    assert translate("chat", "messages", response_format=format_).dropped_fields == ("response_format.minLength",)
    function = {"name": "f", "parameters": {**schema, "anyOf": [{"required": ["a"]}]}}
    tools = [{"type": "function", "function": function}]
    assert translate("chat", "messages", tools=tools).dropped_fields == ("tools.parameters.anyOf",)
