"""Responses requests to chat completions."""

import base64
import json
from typing import Any

import pytest

from gateway.dialects import PARSERS
from gateway.dialects.responses import SEALED_REASONING_PREFIX
from gateway.dialects.translation import Translator
from gateway.dialects.translation.responses_to_chat import unseal_reasoning
from gateway.dialects.translation.translated import UNSIGNED_REASONING, TranslatedRequest
from gateway.values.errors import NotTranslatable
from tests.dialects.translation.translating import FUNCTION, USER, translate


@pytest.mark.parametrize(
    "fields, param",
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"tools": [{"type": "code_interpreter"}]}, "tools.0"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0"),
        ({"input": [{"type": "reasoning", "encrypted_content": "opaque"}]}, "input.0.encrypted_content"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}, "input.0.content.0.file_id"),
    ],
)  # fmt: skip
def test_a_field_without_a_counterpart_is_refused_by_name(fields, param):
    with pytest.raises(NotTranslatable) as raised:
        translate("responses", "chat", **fields)
    assert raised.value.param == param


@pytest.mark.parametrize(
    "fields, dropped",
    [
        (
            {"metadata": {"a": "b"}, "client_metadata": {}, "store": False, "include": []},
            ("metadata", "client_metadata"),
        ),
        ({"tools": [{"type": "function", **FUNCTION}, {"type": "web_search"}]}, ("tools.web_search",)),
    ],
)
def test_a_field_that_no_answer_depends_on_is_dropped_and_reported(fields, dropped):
    assert translate("responses", "chat", **fields).dropped_fields == dropped


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


def chat_messages(*items: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    return translate("responses", "chat", input=list(items), **fields).document["messages"]


def test_text_and_the_calls_after_it_are_one_turn():
    messages = chat_messages(
        {"role": "user", "content": "go"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look"}]},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "c2", "name": "exec", "input": "ls"},
        {"type": "function_call_output", "call_id": "c1", "output": "one"},
        instructions="be brief",
    )
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "tool"]
    calls = [
        (call["id"], call["function"]["name"], call["function"]["arguments"]) for call in messages[2]["tool_calls"]
    ]
    assert calls == [("c1", "f", "{}"), ("c2", "exec", '{"input":"ls"}')]


def test_an_image_of_a_tool_output_follows_in_a_user_message():
    output = [{"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}]
    tool, user = chat_messages({"type": "function_call_output", "call_id": "c", "output": output})
    assert tool["content"].startswith("a\n[image_url of this result")
    assert [part["type"] for part in user["content"]] == ["text", "image_url"]


def test_developer_messages_are_system_messages():
    assert chat_messages({"role": "developer", "content": "x"})[0]["role"] == "system"


@pytest.mark.parametrize(
    "format_, expected",
    [
        ({"type": "json_schema", "name": "n", "schema": {}, "strict": True}, {"type": "json_schema", "json_schema": {"name": "n", "schema": {}, "strict": True}}),
        ({"type": "json_object"}, {"type": "json_object"}),
        ({"type": "text"}, None),
    ],
)  # fmt: skip
def test_a_text_format_is_a_response_format(format_, expected):
    assert translate("responses", "chat", text={"format": format_}).document.get("response_format") == expected


TOOLS = [{"type": "function", **FUNCTION}]


@pytest.mark.parametrize(
    "choice, expected",
    [
        ("required", "required"),
        ({"type": "function", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
        (None, None),
    ],
)
def test_a_tool_choice_is_translated(choice, expected):
    assert translate("responses", "chat", tools=TOOLS, tool_choice=choice).document.get("tool_choice") == expected


def test_a_tool_choice_of_another_kind_is_refused():
    with pytest.raises(NotTranslatable, match="no tool choice 'mcp'"):
        translate("responses", "chat", tools=TOOLS, tool_choice={"type": "mcp"})


def test_tools_whose_flat_names_are_equal_are_told_apart():
    inner = [{"type": "function", "name": "b__f"}]
    tools = [{"type": "namespace", "name": "a", "tools": inner}, {"type": "function", "name": "a__b__f"}]
    names = {"a__b__f": ("", "a__b__f")}
    translated = translate("responses", "chat", tools=tools)
    offered = [tool["function"]["name"] for tool in translated.document["tools"]]
    assert len(set(offered)) == 2 and names.keys() < set(offered)
    callers = {(translated.caller_tool(name).namespace, translated.caller_tool(name).name) for name in offered}
    assert callers == {("a", "b__f"), ("", "a__b__f")}


PING: dict[str, Any] = {"name": "ping", "description": "x", "parameters": {"type": "object", "properties": {}}}


@pytest.mark.parametrize(
    "first, second",
    [
        ({"type": "function", **PING}, {"type": "function", **PING}),
        ({"type": "function", "defer_loading": True, **PING}, {"type": "function", **PING}),
        (PING, {"type": "function", **PING}),
        ({"type": "function", "name": "ping"}, {"type": "function", "name": "ping", "parameters": {}}),
        ({"type": "function", "strict": True, **PING}, {"type": "function", "strict": False, **PING}),
    ],
    ids=["the same", "one is loaded later", "one has no type", "no parameters and empty ones", "one is strict"],
)
def test_a_tool_that_is_offered_twice_alike_is_offered_once(first, second):
    """OpenAI accepts it: once in `tools`, again in an additional_tools item."""
    items = [{"type": "additional_tools", "role": "developer", "tools": [second]}, *USER]
    (tool,) = translate("responses", "chat", input=items, tools=[first]).document["tools"]
    assert tool["function"]["name"] == "ping"
    assert translate("responses", "messages", input=items, tools=[first]).document["tools"][0]["name"] == "ping"


@pytest.mark.parametrize("caller, upstream", [("responses", "chat"), ("chat", "messages"), ("messages", "chat")])
def test_two_different_tools_of_one_name_are_refused(caller, upstream):
    tools = {
        "responses": [{"type": "function", **PING}, {"type": "function", **PING, "description": "y"}],
        "chat": [
            {"type": "function", "function": PING},
            {"type": "function", "function": {**PING, "description": "y"}},
        ],
        "messages": [{"name": "ping", "input_schema": {}}, {"name": "ping", "input_schema": {}, "description": "y"}],
    }
    with pytest.raises(NotTranslatable, match="two different tools") as raised:
        translate(caller, upstream, tools=tools[caller])
    assert raised.value.param == "tools.1"


NAMESPACE = {"type": "namespace", "name": "crm", "tools": [{"type": "function", "name": "list"}]}


@pytest.mark.parametrize(
    "tools, call, offered",
    [
        ([NAMESPACE], {"name": "list", "namespace": "crm"}, "crm__list"),
        ([NAMESPACE], {"name": "list"}, "crm__list"),
        ([{"type": "function", "name": "list"}], {"name": "list", "namespace": "list"}, "list"),
        ([{"type": "function", "name": "list"}], {"name": "list", "namespace": "crm"}, "list"),
        ([NAMESPACE, {"type": "function", "name": "list"}], {"name": "list"}, "list"),
        ([NAMESPACE, {"type": "function", "name": "list"}], {"name": "list", "namespace": "crm"}, "crm__list"),
        ([], {"name": "list", "namespace": "crm"}, "crm__list"),
    ],
    ids=[
        "in its namespace",
        "without it",
        "a deferred function, whose call names itself as namespace",
        "a function, whose call names a namespace",
        "a function beside a namespace",
        "a namespace beside a function",
        "not offered any more",
    ],
)
def test_a_call_of_the_history_has_the_name_of_its_tool(tools, call, offered):
    """Namespaces of calls (developers.openai.com, tool search, 2026-11)."""
    items = [*USER, {"type": "function_call", "call_id": "c", "arguments": "{}", **call}]
    translated = translate("responses", "chat", input=items, tools=tools)
    assert translated.document["messages"][1]["tool_calls"][0]["function"]["name"] == offered
    assert offered in {tool["function"]["name"] for tool in translated.document.get("tools", [])} or not tools


def test_tools_of_a_search_result_are_offered():
    items = [
        *USER,
        {"type": "tool_search_call", "call_id": "s", "arguments": {}},
        {"type": "tool_search_output", "call_id": "s", "tools": [{"type": "function", **PING, "defer_loading": True}]},
    ]
    translated = translate("responses", "chat", input=items)
    assert [tool["function"]["name"] for tool in translated.document["tools"]] == ["ping"]
    assert translated.dropped_fields == ("tools.defer_loading", "input.tool_search_call")


@pytest.mark.parametrize(
    "reasoning, effort, dropped",
    [
        ({"effort": "low", "summary": "auto"}, "low", ()),
        ({"effort": "none"}, "none", ()),
        ({"effort": "default"}, None, ("reasoning.effort (no such value)",)),
        ({"effort": 3}, None, ("reasoning.effort (no such value)",)),
        ({"effort": "high", "context": "all"}, "high", ("reasoning.context",)),
        (None, None, ()),
    ],
)
def test_the_reasoning_effort_is_translated(reasoning, effort, dropped):
    translated = translate("responses", "chat", reasoning=reasoning)
    assert (translated.document.get("reasoning_effort"), translated.dropped_fields) == (effort, dropped)


BLOCKS = [{"type": "thinking", "thinking": "x", "signature": "s"}]
SEALED = SEALED_REASONING_PREFIX + base64.b64encode(json.dumps(BLOCKS).encode()).decode()


@pytest.mark.parametrize(
    "text, blocks",
    [
        (SEALED, BLOCKS),
        ("opaque", None),
        (SEALED_REASONING_PREFIX + "not base64!", None),
        (f"{SEALED[:20]}!{SEALED[20:]}", None),
        (SEALED_REASONING_PREFIX + base64.b64encode(b"{").decode(), None),
        (SEALED_REASONING_PREFIX + base64.b64encode(b"{}").decode(), None),
    ],
    ids=["sealed", "a provider's", "no base64", "a stray character", "no JSON", "no list"],
)
def test_only_reasoning_sealed_by_the_gateway_is_unsealed(text, blocks):
    assert unseal_reasoning(text) == blocks


def test_signed_thinking_is_refused_where_it_cannot_be_read():
    item = {"type": "reasoning", "summary": [], "encrypted_content": SEALED}
    with pytest.raises(NotTranslatable, match="signed thinking") as raised:
        translate("responses", "chat", input=[item])
    assert raised.value.param == "input.0"
    answer = {"type": "message", "role": "assistant", "content": "y"}
    messages = translate("responses", "chat", extended=True, input=[item, answer]).document["messages"]
    assert messages == [{"role": "assistant", "content": "y", "thinking_blocks": BLOCKS}]


def test_a_streamed_request_asks_for_usage():
    assert translate("responses", "chat", stream=True).document["stream_options"] == {"include_usage": True}


def test_unsigned_reasoning_is_kept_apart_from_the_request():
    reasoning = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}
    answer = {"type": "message", "role": "assistant", "content": "y"}
    translated = translate("responses", "chat", input=[*USER, reasoning, answer])
    assert translated.document["messages"][1] == {"role": "assistant", "content": "y"}
    assert (translated.reasoning, translated.dropped_fields) == ({1: "hm"}, ())
    assert translate("responses", "messages", input=[*USER, reasoning, answer]).dropped_fields == (UNSIGNED_REASONING,)


@pytest.mark.parametrize("summary", [[], None, [7]])
def test_reasoning_without_text_is_dropped_and_named(summary):
    translated = translate("responses", "chat", input=[*USER, {"type": "reasoning", "summary": summary}])
    assert translated.dropped_fields == ("reasoning of earlier turns",)
