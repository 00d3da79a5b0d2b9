"""Messages requests to chat completions, and chat answers back."""

import re
from typing import Any

import pytest

from gateway.dialects.messages import UNSIGNED_SIGNATURE_PREFIX
from gateway.values.errors import NotTranslatable
from tests.dialects.translation.translating import USER, chat_answer, chat_chunks, received, translate

IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}


@pytest.mark.parametrize(
    "fields, param",
    [
        ({"top_k": 5}, "top_k"),
        ({"stop_sequences": list("abcde")}, "stop_sequences"),
        ({"container": "c"}, "container"),
        ({"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools.0"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]}]}, "messages.0.content.0.source"),
        ({"messages": [*USER, {"role": "assistant", "content": [{"type": "thinking", "thinking": "x", "signature": "s"}]}]}, "messages.1.content.0"),
        ({"messages": [{"role": "user", "content": [{"type": "search_result"}]}]}, "messages.0.content.0"),
        ({"next_year": 1}, "next_year"),
    ],
)  # fmt: skip
def test_a_field_without_a_counterpart_is_refused_by_name(fields, param):
    with pytest.raises(NotTranslatable) as raised:
        translate("messages", "chat", **fields)
    assert raised.value.param == param


@pytest.mark.parametrize(
    "fields, dropped",
    [
        ({"metadata": {"user_id": "u"}, "context_management": {"edits": []}}, ("metadata", "context_management")),
        ({"system": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]}, ("cache_control",)),
    ],
)
def test_a_field_that_no_answer_depends_on_is_dropped_and_reported(fields, dropped):
    assert translate("messages", "chat", **fields).dropped_fields == dropped


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


def test_cache_control_and_signatures_reach_an_extended_target():
    thinking = {"type": "thinking", "thinking": "x", "signature": "s"}
    system = [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]
    turns = [*USER, {"role": "assistant", "content": [thinking, {"type": "text", "text": "y"}]}, *USER]
    document = translate("messages", "chat", extended=True, system=system, messages=turns).document
    assert document["messages"][0]["content"][0]["cache_control"] == {"type": "ephemeral"}
    assert document["messages"][2]["thinking_blocks"] == [thinking]


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


TOOLS = [{"name": "f", "input_schema": {"type": "object"}}]


@pytest.mark.parametrize(
    "choice, expected",
    [
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "new"}, "auto"),
        ({"type": "tool", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
        (None, None),
    ],
)
def test_a_tool_choice_is_translated(choice, expected):
    assert translate("messages", "chat", tools=TOOLS, tool_choice=choice).document.get("tool_choice") == expected


def test_parallel_calls_may_be_disabled():
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    assert translate("messages", "chat", tools=TOOLS, tool_choice=choice).document["parallel_tool_calls"] is False


def test_the_choice_of_a_tool_that_is_dropped_is_refused():
    search = {"type": "web_search_20250305", "name": "web_search"}
    translated = translate("messages", "chat", tools=[*TOOLS, search])
    assert translated.dropped_fields == ("tools.web_search_20250305",)
    with pytest.raises(NotTranslatable, match="names a tool that is dropped"):
        translate("messages", "chat", tools=[*TOOLS, search], tool_choice={"type": "tool", "name": "web_search"})


@pytest.mark.parametrize(
    "fields, effort, dropped",
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, "low", ()),
        ({"thinking": {"type": "enabled", "budget_tokens": 8192}}, "medium", ()),
        ({"thinking": {"type": "enabled", "budget_tokens": 9000}}, "high", ()),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}, "high", ()),
        ({"thinking": {"type": "adaptive"}}, None, ("thinking",)),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "low"}}, None, ()),
        ({"output_config": {"effort": "low"}}, None, ("output_config.effort",)),
    ],
    ids=[
        "a small budget",
        "a medium one",
        "a large one",
        "an effort",
        "adaptive without one",
        "disabled",
        "no thinking",
    ],
)
def test_thinking_becomes_reasoning_effort(fields, effort, dropped):
    translated = translate("messages", "chat", **fields)
    assert (translated.document.get("reasoning_effort"), translated.dropped_fields) == (effort, dropped)


def test_unsigned_thinking_of_the_gateway_is_kept_apart_from_the_request():
    thinking = {"type": "thinking", "thinking": "x", "signature": UNSIGNED_SIGNATURE_PREFIX}
    turn = {"role": "assistant", "content": [thinking, {"type": "text", "text": "y"}]}
    translated = translate("messages", "chat", messages=[*USER, turn, *USER])
    assert translated.document["messages"][1] == {"role": "assistant", "content": "y"}
    assert (translated.reasoning, translated.dropped_fields) == ({1: "x"}, ())


@pytest.mark.parametrize(
    "source, part",
    [
        ({"type": "text", "data": "Hi"}, {"role": "user", "content": "<document title='a.txt'>\nHi\n</document>"}),
        (
            {"type": "base64", "media_type": "application/pdf", "data": "AAAA"},
            {"role": "user", "content": [{"type": "file", "file": {"filename": "a.txt", "file_data": "data:application/pdf;base64,AAAA"}}]},
        ),
    ],
)  # fmt: skip
def test_a_document_is_text_or_a_file(source, part):
    block = {"type": "document", "title": "a.txt", "source": source}
    assert translate("messages", "chat", messages=[{"role": "user", "content": [block]}]).document["messages"] == [part]


def test_a_document_from_elsewhere_is_refused():
    block = {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}}
    with pytest.raises(NotTranslatable, match="no document source 'url'"):
        translate("messages", "chat", messages=[{"role": "user", "content": [block]}])


def test_an_assistant_turn_of_calls_only_has_no_content():
    use = {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}
    document = translate("messages", "chat", messages=[*USER, {"role": "assistant", "content": [use]}]).document
    assert document["messages"][1] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "t", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}],
    }


def test_a_streamed_request_asks_for_usage():
    assert translate("messages", "chat", stream=True).document["stream_options"] == {"include_usage": True}


LONG_NAME = "mcp__" + "n" * 90


@pytest.mark.parametrize("name", [LONG_NAME, "a.b", "3d"])
def test_a_tool_name_that_a_provider_refuses_is_replaced_everywhere_and_restored(name):
    use = {"type": "tool_use", "id": "t", "name": name, "input": {}}
    found = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "tool_reference", "tool_name": name}]}
    turns = [*USER, {"role": "assistant", "content": [use]}, {"role": "user", "content": [found]}]
    fields: dict[str, Any] = {"messages": turns, "tools": [{"name": name, "input_schema": {"type": "object"}}]}
    fields["tool_choice"] = {"type": "tool", "name": name}
    document = translate("messages", "chat", **fields).document
    (short,) = {
        document["tools"][0]["function"]["name"],
        document["tool_choice"]["function"]["name"],
        document["messages"][1]["tool_calls"][0]["function"]["name"],
        document["messages"][2]["content"].split(" ")[2],
    }
    assert short != name and len(short) <= 64 and re.fullmatch("[a-zA-Z_][a-zA-Z0-9_-]*", short)
    for answer in (
        chat_answer({"tool_calls": [{"id": "c", "function": {"name": short, "arguments": "{}"}}]}),
        chat_chunks({"tool_calls": [{"index": 0, "id": "c", "function": {"name": short, "arguments": "{}"}}]}),
    ):
        read, lost = received("messages", "chat", answer, **fields)
        assert ([name_ for _, name_, _ in read.tool_calls], lost) == ([name], [])


@pytest.mark.parametrize("extended", [False, True])
def test_call_ids_over_forty_characters_are_replaced_in_call_and_result(extended):
    """litellm's are kept: they hold Gemini's thought signatures."""
    ids = ["toolu_" + "a" * 60, "toolu_" + "a" * 60 + "b", "short"]
    uses = [{"type": "tool_use", "id": id_, "name": "f", "input": {}} for id_ in ids]
    results = [{"type": "tool_result", "tool_use_id": id_, "content": "ok"} for id_ in ids]
    turns = [*USER, {"role": "assistant", "content": uses}, {"role": "user", "content": results}]
    messages = translate("messages", "chat", extended=extended, messages=turns).document["messages"]
    called = [call["id"] for call in messages[1]["tool_calls"]]
    assert called == [message["tool_call_id"] for message in messages[2:]]
    assert len(set(called)) == 3 and called[2] == "short"
    assert called == ids if extended else max(map(len, called)) <= 40


@pytest.mark.parametrize(
    "schema, expected",
    [
        ({"type": "object"}, {"type": "object", "properties": {}}),
        ({}, {"type": "object", "properties": {}}),
        (
            {"type": "object", "properties": {"a": {"type": "object"}, "b": {"type": "array"}}},
            {"type": "object", "properties": {"a": {"type": "object", "properties": {}}, "b": {"type": "array", "items": {}}}},
        ),
    ],
    ids=["an object", "empty", "nested"],
)  # fmt: skip
def test_objects_without_properties_have_empty_ones(schema, expected):
    (tool,) = translate("messages", "chat", tools=[{"name": "f", "input_schema": schema}]).document["tools"]
    assert tool["function"]["parameters"] == expected


def test_repeated_tools_are_offered_once():
    tools = [{"name": "f", "input_schema": {"type": "object"}}] * 2
    assert len(translate("messages", "chat", tools=tools).document["tools"]) == 1


def test_an_effort_that_openai_lacks_is_dropped_and_named():
    translated = translate("messages", "chat", thinking={"type": "adaptive"}, output_config={"effort": "ultra"})
    assert "reasoning_effort" not in translated.document
    assert translated.dropped_fields == ("output_config.effort", "thinking")
