"""What answers name beside tokens: service tier, region, tools that ran, the provider's own cost."""

from typing import Any

import pytest

from gateway.providers import anthropic, openai_compatible
from gateway.providers.billed_extras import extras_beside_tokens
from gateway.values.usage import SERVER_TOOLS, SERVICE_TIERS

COUNTS = {"prompt_tokens": 3, "completion_tokens": 4}


@pytest.mark.parametrize(
    "answer, tier",
    [
        ({"service_tier": "flex"}, "flex"),
        ({"service_tier": "priority"}, "priority"),
        ({"service_tier": "default"}, ""),
        ({"service_tier": "auto"}, ""),
        ({"service_tier": "on_demand"}, ""),
        ({"service_tier": None}, ""),
        ({"service_tier": 7}, ""),
        ({"usage": {"service_tier": "batch"}}, "batch"),
        ({"usage": {"extra_properties": {"google": {"traffic_type": "ON_DEMAND_FLEX"}}}}, "flex"),
        ({"usage": {"extra_properties": {"google": {"traffic_type": "ON_DEMAND"}}}}, ""),
        ({"usage": {"extra_properties": 7}}, ""),
        ({"usage": {"service_tier": "standard", "speed": "fast"}}, "fast"),
        ({"usage": {"service_tier": "standard", "speed": "standard"}}, ""),
    ],
)
def test_the_service_tier_is_that_of_the_answer(answer, tier):
    extras = extras_beside_tokens(answer, answer.get("usage", {}))
    assert extras.get("service_tier", "") == tier and tier in SERVICE_TIERS


@pytest.mark.parametrize(
    "geo, kept", [("us", "us"), ("global", ""), ("not_available", ""), ("", ""), (None, ""), (7, "")]
)
def test_only_a_region_is_an_inference_geo(geo, kept):
    assert extras_beside_tokens({}, {"inference_geo": geo}).get("inference_geo", "") == kept


def search(action: Any) -> dict[str, Any]:
    return {"type": "web_search_call", "status": "completed", "action": action}


# Recordings of pydantic/pydantic-ai (P) and vercel/ai (V) as of 2026-08-22; documentation as of 2026-08 (D).
TOOLS: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "Anthropic's searches and fetches (P)": (
        {"usage": {"server_tool_use": {"web_search_requests": 1, "web_fetch_requests": 2, "tool_search_requests": 4}}},
        {"web_search": 1, "web_fetch": 2},
    ),
    "OpenAI bills a search, not the opening of a page (V)": (
        {"output": [search({"type": "search"}), search({"type": "open_page"}), search({"type": "find_in_page"}), search(None)]},
        {"web_search": 2},
    ),
    "searches that the answer counts itself (P)": (
        {"output": [search({"type": "search"})], "tool_usage": {"web_search": {"num_requests": 3}}}, {"web_search": 3},
    ),
    "a count of zero does not hide a search (D)": (
        {"output": [search({"type": "search"})], "tool_usage": {"web_search": {"num_requests": 0}}}, {"web_search": 1},
    ),
    "file searches (P)": ({"output": [{"type": "file_search_call"}, {"type": "message"}]}, {"file_search": 1}),
    "a container is billed, not its calls (V)": (
        {"output": [{"type": "code_interpreter_call", "container_id": name} for name in ("c1", "c1", "c2")]},
        {"code_execution": 2},
    ),
    "a shell in a container, and one at the caller (V)": (
        {"output": [{"type": "shell_call", "environment": {"type": "container_reference", "container_id": "c1"}}, {"type": "shell_call"}, {"type": "local_shell_call"}]},
        {"code_execution": 1},
    ),
    "xAI names no container (V)": (
        {"output": [{"type": "code_interpreter_call"}, {"type": "code_interpreter_call", "container_id": None}]}, {"code_execution": 2},
    ),
    "images (P)": ({"output": [{"type": "image_generation_call"}]}, {"image_generation": 1}),
    "tools that cost nothing (P)": ({"output": [{"type": "mcp_call"}, {"type": "tool_search_call"}, {"type": "function_call"}, 7]}, {}),
    "xAI counts its tools (V)": (
        {"usage": {"server_side_tool_usage_details": {"web_search_calls": 2, "x_search_calls": 1, "document_search_calls": 1, "mcp_calls": 5}}},
        {"web_search": 2, "x_search": 1, "collections_search": 1},
    ),
    "OpenRouter counts searches (P)": ({"usage": {"server_tool_use_details": {"web_search_requests": 1, "tool_calls_executed": 1}}}, {"web_search": 1}),
    "Perplexity's agents (D)": (
        {"output": [], "usage": {"tool_calls_details": {"search_web": {"invocation": 2}, "fetch_url": {"invocation": 1}}}},
        {"web_search": 2, "web_fetch": 1},
    ),
    "Volcengine counts searches (D)": (
        {"output": [search({"type": "search"})], "usage": {"tool_usage": {"web_search": 2}, "tool_usage_details": {"web_search": {"search_engine": 2}}}},
        {"web_search": 2},
    ),
    "Alibaba's plugins (D)": ({"usage": {"plugins": {"search": {"count": 1, "strategy": "standard"}}}}, {"web_search": 1}),
    "Gemini's through litellm (D)": ({"usage": {"prompt_tokens_details": {"web_search_requests": 2}}}, {"web_search": 2}),
    "Perplexity's queries (D)": ({"usage": {"num_search_queries": 18, "search_context_size": "low"}}, {"web_search": 18}),
    "Perplexity's request (D)": ({"usage": {"search_context_size": "low"}}, {"web_search": 1}),
    "a search model of chat completions searches always (D)": ({"model": "gpt-4o-search-preview-2025-03-11"}, {"web_search": 1}),
    "citations of a search (D)": (
        {"choices": [{"message": {"annotations": [{"type": "url_citation"}, {"type": "url_citation"}]}}]}, {"web_search": 1},
    ),
    "citations of a file (D)": ({"choices": [{"message": {"annotations": [{"type": "file_citation"}]}}]}, {}),
    "Groq lists its calls (P)": (
        {"choices": [{"message": {"executed_tools": [{"index": 0, "type": "search"}, {"index": 0, "type": "search"}, {"index": 1, "type": "visit"}, {"index": 2, "type": "python"}]}}]},
        {"web_search": 1, "web_fetch": 1, "code_execution": 1},
    ),
    "other shapes": ({"output": "x", "tool_usage": 7, "choices": [{"message": 1}, 2], "usage": {"server_tool_use": [1]}}, {}),
}  # fmt: skip


@pytest.mark.parametrize("answer, tools", TOOLS.values(), ids=TOOLS)
def test_tools_that_ran_are_counted(answer, tools):
    assert dict(extras_beside_tokens(answer, answer.get("usage", {})).get("server_tools", ())) == tools
    assert set(tools) <= set(SERVER_TOOLS)


@pytest.mark.parametrize(
    "usage, nusd",
    [
        ({"cost": 0.00203}, 2_030_000),
        ({"cost": 0}, 0),
        ({"cost": 0.0001, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.002}}, 2_100_000),
        ({"cost": 0.002, "is_byok": False, "cost_details": {"upstream_inference_cost": 0.002}}, 2_000_000),
        ({"cost": {"total_cost": 0.006, "request_cost": 0.005}}, 6_000_000),
        ({"cost_in_usd_ticks": 1_721_250}, 172_125),
        ({"estimated_cost": "0.5"}, 500_000_000),
        ({"cost": None}, None),
        ({"cost": -1}, None),
        ({"cost": float("nan")}, None),
        ({"cost": True}, None),
        ({"cost": "free"}, None),
        ({}, None),
    ],
    ids=[
        "OpenRouter", "nothing", "a key of one's own", "OpenRouter's key", "Perplexity", "xAI", "DeepInfra", "null",
        "negative", "no number", "a boolean", "a word", "none",
    ],
)  # fmt: skip
def test_the_provider_s_own_cost_is_read(usage, nusd):
    assert extras_beside_tokens({}, usage).get("reported_cost_nusd") == nusd


def test_an_answer_without_usage_keeps_its_tier_and_tools():
    answer = {"service_tier": "flex", "output": [search({"type": "search"})]}
    assert openai_compatible.usage_of(answer) is None
    assert openai_compatible.billed_extras_of(answer) == {"service_tier": "flex", "server_tools": (("web_search", 1),)}
    assert anthropic.billed_extras_of({"usage": {"speed": "fast"}}) == {"service_tier": "fast"}
    assert anthropic.billed_extras_of({"usage": 1}) == openai_compatible.billed_extras_of(None) == {}
