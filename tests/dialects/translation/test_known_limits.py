"""What families of models are known to refuse, and what is sent to them instead."""

import re
from dataclasses import replace
from typing import Any

import pytest

from gateway.dialects.translation.known_limits import LIMITS, adapted, refusal_of, requires_reasoning, with_reasoning
from gateway.values.catalog import Deployment
from tests.dialects.translation.translating import USER
from tests.snapshots import snapshot

SMALL = snapshot().deployments["small"]
OPENAI, ANYWHERE = "https://api.openai.com/v1", "http://server/v1"
BOTH_SAMPLERS = {"temperature": 0.5, "top_p": 0.9}


def deployment(model: str, base_url: str = ANYWHERE) -> Deployment:
    return replace(SMALL, model=model, base_url=base_url)


def sent(
    model: str, fields: dict[str, Any], *, dialect: str = "chat", base_url: str = ANYWHERE
) -> tuple[dict[str, Any], Any]:
    return adapted(fields, dialect, deployment(model, base_url))


@pytest.mark.parametrize("dialect", ["messages", "chat"])
@pytest.mark.parametrize(
    "model, names, dropped",
    [
        ("claude-3-5-sonnet-20241022", {"temperature", "top_p"}, ()),
        ("claude-sonnet-4-20250514", {"temperature", "top_p"}, ()),
        ("claude-opus-4-1-20250805", {"temperature"}, ("top_p",)),
        ("claude-sonnet-4-5", {"temperature"}, ("top_p",)),
        ("anthropic/claude-haiku-4.5", {"temperature"}, ("top_p",)),
        ("us.anthropic.claude-opus-4-5-20251101-v1:0", {"temperature"}, ("top_p",)),
        ("claude-opus-4-6", {"temperature"}, ("top_p",)),
        ("claude-opus-4-7", set(), ("temperature", "top_p")),
        ("claude-sonnet-5", set(), ("temperature", "top_p")),
        ("vertex_ai/claude-opus-5@20260701", set(), ("temperature", "top_p")),
    ],
)
def test_claude_is_sent_the_sampling_parameters_that_its_version_accepts(model, names, dropped, dialect):
    document, found = sent(model, {**BOTH_SAMPLERS}, dialect=dialect)
    assert (document.keys(), found) == (names, dropped)


def test_one_sampling_parameter_is_left_alone_and_a_default_is_dropped_without_a_word():
    assert sent("claude-sonnet-4-5", {"top_p": 0.9}) == ({"top_p": 0.9}, ())
    assert sent("claude-sonnet-4-5", {"temperature": 0.5, "top_p": 1}) == ({"temperature": 0.5}, ())
    assert sent("claude-opus-5", {"temperature": 1.0}) == ({}, ())


@pytest.mark.parametrize(
    "model, effort, names",
    [
        ("o3", None, set()),
        ("o4-mini-2025-04-16", "low", set()),
        ("gpt-5", None, set()),
        ("gpt-5-mini-2025-08-07", None, set()),
        ("gpt-5.1", None, {"temperature", "top_p"}),
        ("gpt-5.2", "none", {"temperature", "top_p"}),
        ("gpt-5.4-mini", "low", set()),
        ("openai/gpt-5.6-luna", "none", set()),
        ("gpt-5-chat-latest", None, {"temperature", "top_p"}),
        ("gpt-4o", None, {"temperature", "top_p"}),
        ("gpt-4.1", None, {"temperature", "top_p"}),
        ("gpt-35-turbo", None, {"temperature", "top_p"}),
        ("gpt-oss-120b", None, {"temperature", "top_p"}),
        ("llama-3.1-70b", None, {"temperature", "top_p"}),
    ],
)
def test_openai_s_reasoning_models_are_sent_no_sampling_parameters(model, effort, names):
    document, dropped = sent(model, {**BOTH_SAMPLERS, **({"reasoning_effort": effort} if effort else {})})
    assert document.keys() - {"reasoning_effort"} == names
    assert set(dropped) == {"temperature", "top_p"} - names


@pytest.mark.parametrize(
    "model, effort, expected",
    [
        ("o3", "minimal", "low"),
        ("o3", "none", "low"),
        ("gpt-5", "none", "minimal"),
        ("gpt-5", "xhigh", "high"),
        ("gpt-5.1", "minimal", "none"),
        ("gpt-5.1", "none", "none"),
        ("gpt-5.2-codex", "xhigh", "xhigh"),
        ("gpt-oss-120b", "minimal", "low"),
        ("grok-4", "low", None),
        ("grok-4.20-reasoning", "low", None),
        ("grok-4.3", "none", "none"),
        ("grok-3-mini", "low", "low"),
        ("gemini-3-pro", "minimal", "minimal"),
        ("some-model", "minimal", "low"),
        ("some-model", "medium", "medium"),
        ("some-model", "xhigh", "high"),
        ("some-model", "none", None),
    ],
)
def test_an_effort_is_one_that_the_model_has(model, effort, expected):
    document, dropped = sent(model, {"reasoning_effort": effort})
    assert document.get("reasoning_effort") == expected
    assert dropped == (("reasoning_effort",) if expected is None else ())


@pytest.mark.parametrize("effort, expected", [("low", "default"), ("none", "none")])
def test_qwen_at_groq_reasons_or_does_not(effort, expected):
    document, _ = sent("qwen/qwen3-32b", {"reasoning_effort": effort}, base_url="https://api.groq.com/openai/v1")
    assert document["reasoning_effort"] == expected


@pytest.mark.parametrize(
    "model, effort, expected",
    [
        ("claude-opus-4-5", "max", "high"),
        ("claude-opus-4-6", "xhigh", "high"),
        ("claude-opus-4-6", "max", "max"),
        ("claude-opus-4-7", "xhigh", "xhigh"),
        ("claude-next", "max", "max"),
    ],
)
def test_anthropic_s_effort_is_one_that_the_model_has(model, effort, expected):
    config = {"effort": effort, "format": {"type": "json_schema"}}
    document, dropped = sent(model, {"output_config": config}, dialect="messages")
    assert (document["output_config"], dropped) == ({**config, "effort": expected}, ())


TOOLS = [{"type": "function", "function": {"name": "f"}}]


@pytest.mark.parametrize(
    "model, base_url, effort, expected",
    [
        ("gpt-5.4", OPENAI, "low", "none"),
        ("gpt-5.4", OPENAI, None, None),
        ("gpt-5.6-terra", OPENAI, None, "none"),
        ("gpt-5.6-terra", "https://x.openai.azure.com/openai/v1", "high", "none"),
        ("gpt-5.2", OPENAI, "low", "low"),
        ("openai/gpt-5.6", "https://openrouter.ai/api/v1", "low", "low"),
    ],
)
def test_newer_models_of_openai_do_not_reason_beside_tools(model, base_url, effort, expected):
    fields = {"tools": TOOLS, **({"reasoning_effort": effort} if effort else {})}
    document, dropped = sent(model, fields, base_url=base_url)
    assert document.get("reasoning_effort") == expected
    assert dropped == (("reasoning_effort (beside tools)",) if effort and effort != expected else ())
    assert sent(model, {"reasoning_effort": "low"}, base_url=base_url)[0]["reasoning_effort"] == "low"


@pytest.mark.parametrize(
    "model, base_url, switch",
    [
        ("deepseek-v4-flash", "https://api.deepseek.com", {"thinking": {"type": "disabled"}}),
        ("kimi-k2.6", "https://api.moonshot.ai/v1", {"thinking": {"type": "disabled"}}),
        ("qwen3.5-plus", "https://dashscope.aliyuncs.com/compatible-mode/v1", {"enable_thinking": False}),
        ("deepseek-v4-flash", ANYWHERE, {}),
    ],
)
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "f"}}, "auto", "none", None])
def test_thinking_is_switched_off_where_a_tool_is_forced(model, base_url, switch, choice):
    fields = {"tools": TOOLS, "reasoning_effort": "low", **({"tool_choice": choice} if choice else {})}
    document, dropped = sent(model, fields, base_url=base_url)
    is_forced = bool(switch) and choice not in ("auto", "none", None)
    assert {name: document[name] for name in document.keys() - fields.keys()} == (switch if is_forced else {})
    assert dropped == (("reasoning_effort (a tool is forced)",) if is_forced else ())


CALLS: list[dict[str, Any]] = [
    *USER,
    {"role": "assistant", "tool_calls": [{"id": "toolu_01A", "function": {"name": "f"}}, {"id": "abcdefgh1"}]},
    {"role": "tool", "tool_call_id": "toolu_01A", "content": "x"},
    {"role": "tool", "tool_call_id": "abcdefgh1", "content": "y"},
]


@pytest.mark.parametrize(
    "model",
    [
        "mistral-large-latest",
        "ministral-8b",
        "codestral-2508",
        "devstral",
        "mistralai/magistral-small",
        "pixtral",
        "mixtral",
    ],
)
def test_mistral_s_call_ids_are_nine_letters_and_digits(model):
    document, _ = sent(model, {"messages": CALLS})
    calls = [call["id"] for call in document["messages"][1]["tool_calls"]]
    assert calls == [message["tool_call_id"] for message in document["messages"][2:]]
    assert re.fullmatch("[a-zA-Z0-9]{9}", calls[0]) and calls[1] == "abcdefgh1"
    assert CALLS[2]["tool_call_id"] == "toolu_01A", "the translated request itself stays"


def test_openai_s_call_ids_behind_litellm_are_shortened():
    messages = [{"role": "tool", "tool_call_id": "x" * 41, "content": "y"}]
    assert len(sent("azure/gpt-4o", {"messages": messages})[0]["messages"][0]["tool_call_id"]) <= 40
    assert sent("gemini/gemini-3-pro", {"messages": messages})[0]["messages"] == messages


@pytest.mark.parametrize(
    "model, base_url, fields, param",
    [
        ("o3", ANYWHERE, {"stop": ["x"]}, "stop"),
        ("gpt-5-mini", ANYWHERE, {"stop": ["x"]}, "stop"),
        ("gpt-4o", ANYWHERE, {"stop": ["x"]}, None),
        ("gpt-5", ANYWHERE, {}, None),
        ("grok-4", ANYWHERE, {"stop": ["x"]}, "stop"),
        ("grok-4-fast-non-reasoning", ANYWHERE, {"stop": ["x"]}, None),
        ("gpt-4o", OPENAI, {"tools": TOOLS * 129}, "tools"),
        ("gpt-4o", OPENAI, {"tools": TOOLS * 128}, None),
        ("gpt-4o", ANYWHERE, {"tools": TOOLS * 129}, None),
        ("claude-opus-4-6", ANYWHERE, {"messages": [*USER, {"role": "assistant", "content": "{"}]}, "messages"),
        ("claude-opus-4-6", ANYWHERE, {"messages": USER}, None),
        ("claude-haiku-4-5", ANYWHERE, {"messages": [*USER, {"role": "assistant", "content": "{"}]}, None),
    ],
)
def test_what_cannot_be_sent_is_refused_by_name(model, base_url, fields, param):
    error = refusal_of(fields, "chat", deployment(model, base_url))
    assert (error.param if error is not None else None) == param


@pytest.mark.parametrize(
    "model, expected",
    [
        ("deepseek-v4-pro", True),
        ("deepseek-reasoner", True),
        ("kimi-k2-thinking", True),
        ("moonshotai/kimi-k2.6", True),
        ("deepseek-chat", False),
        ("deepseek-r1", False),
        ("kimi-k2-instruct", False),
        ("gpt-5", False),
    ],
)
def test_some_models_require_the_reasoning_of_earlier_turns(model, expected):
    assert requires_reasoning("chat", deployment(model)) is expected
    assert not requires_reasoning("messages", deployment(model))


def test_reasoning_is_put_back_and_a_blank_stands_for_what_is_not_known():
    turns = [*USER, {"role": "assistant", "content": "a"}, *USER, {"role": "assistant", "content": "b"}]
    messages = with_reasoning({"messages": turns}, {1: "hm"})["messages"]
    assert [message.get("reasoning_content") for message in messages] == [None, "hm", None, " "]
    assert "reasoning_content" not in turns[1]


def test_every_limit_has_a_source_a_month_and_words():
    for limit in LIMITS:
        assert limit.source and re.fullmatch(r"20\d\d-\d\d", limit.checked)
        assert limit.does or limit.efforts is not None


def test_a_model_of_no_family_is_sent_the_request_as_it_is():
    fields = {"messages": CALLS, **BOTH_SAMPLERS, "stop": ["x"], "tools": TOOLS, "tool_choice": "required"}
    assert sent("llama-3.1-70b", fields) == (fields, ())
    assert refusal_of(fields, "chat", deployment("llama-3.1-70b")) is None
