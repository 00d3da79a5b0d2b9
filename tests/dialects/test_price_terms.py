"""What a request asks for that changes its price, in every dialect and spelling."""

from typing import Any

import orjson
import pytest

from gateway.dialects import PARSERS, passthrough
from gateway.dialects.price_terms import TOOL_CALLS_MAX
from gateway.values.request import Request
from gateway.values.usage import STANDARD_TERMS, FurtherCallTerms, PriceTerms

_HEADS: dict[str, dict[str, Any]] = {
    "chat": {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
    "responses": {"model": "m", "input": "hi"},
    "messages": {"model": "m", "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]},
    "completions": {"model": "m", "prompt": "hi"},
    "embeddings": {"model": "m", "input": "hi"},
}


def parsed(dialect: str, **fields: Any) -> Request:
    return PARSERS[dialect](orjson.dumps({**_HEADS[dialect], **fields}))


def terms_of(dialect: str, **fields: Any) -> PriceTerms:
    return parsed(dialect, **fields).price_terms


@pytest.mark.parametrize("dialect", sorted(_HEADS))
def test_a_request_that_asks_for_nothing_has_the_standard_terms(dialect: str) -> None:
    assert terms_of(dialect) is STANDARD_TERMS


@pytest.mark.parametrize(
    "fields",
    [
        {"service_tier": "auto"},
        {"service_tier": "default"},
        {"service_tier": "standard_only"},
        {"service_tier": None},
        {"service_tier": 7},
        {"speed": "standard"},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"tools": [{"type": "custom", "name": "f"}, {"name": "g", "input_schema": {"type": "object"}}]},
        {"tools": [{"type": "bash_20250124", "name": "bash"}, {"type": "text_editor_20250728", "name": "edit"}]},
        {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}},
        {"modalities": ["text"]},
    ],
    ids=lambda fields: orjson.dumps(fields).decode(),
)
@pytest.mark.parametrize("dialect", ["chat", "responses", "messages"])
def test_what_has_no_price_of_its_own_has_the_standard_terms(dialect: str, fields: dict[str, Any]) -> None:
    assert terms_of(dialect, **fields) is STANDARD_TERMS


@pytest.mark.parametrize(
    ("dialect", "fields", "tiers"),
    [
        # OpenAI, fast mode and flex processing, 2026-11: the answer may name a lower tier than the request.
        ("chat", {"service_tier": "priority"}, ("priority", "")),
        ("chat", {"service_tier": "fast"}, ("priority", "")),
        ("responses", {"service_tier": "flex"}, ("flex", "")),
        ("responses", {"service_tier": "ultrafast"}, ("ultrafast", "")),
        ("completions", {"service_tier": "priority"}, ("priority", "")),
        ("embeddings", {"service_tier": "flex"}, ("flex", "")),
        # Anthropic, fast mode, 2026-11.
        ("messages", {"speed": "fast"}, ("fast", "")),
        ("messages", {"speed": "fast", "service_tier": "standard_only"}, ("fast", "")),
        # Gemini, priority inference, 2026-11: the word of its REST API.
        ("chat", {"service_tier": "SERVICE_TIER_PRIORITY"}, ("priority", "")),
        # Amazon Bedrock, ServiceTier, 2026-11.
        ("chat", {"service_tier": {"type": "flex"}}, ("flex", "")),
        # Groq, service tiers, 2026-11: a tier without a published price keeps its name.
        ("chat", {"service_tier": "performance"}, ("performance", "")),
        ("chat", {"service_tier": "tur\nbo\u00e9"}, ("turbo", "")),
    ],
    ids=lambda value: value if isinstance(value, str) else orjson.dumps(value).decode(),
)
def test_a_tier_is_one_of_those_that_it_may_be_served_at(
    dialect: str, fields: dict[str, Any], tiers: tuple[str, ...]
) -> None:
    assert terms_of(dialect, **fields).service_tiers == tiers


def test_a_region_is_part_of_the_terms() -> None:
    assert terms_of("messages", inference_geo="us") == PriceTerms(inference_geo="us")


@pytest.mark.parametrize(
    ("dialect", "fields", "calls"),
    [
        (
            "messages",
            {"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 5}]},
            {"web_search": 5},
        ),
        ("messages", {"tools": [{"type": "web_search_20260209", "name": "s"}]}, {"web_search": TOOL_CALLS_MAX}),
        (
            "messages",
            {
                "tools": [
                    {"type": "web_fetch_20250910", "max_uses": 2},
                    {"type": "code_execution_20260120", "max_uses": 3},
                ]
            },
            {"web_fetch": 2, "code_execution": 3},
        ),
        ("messages", {"tools": [{"type": "web_search_20250305", "max_uses": 10**15}]}, {"web_search": TOOL_CALLS_MAX}),
        ("messages", {"tools": [{"type": "web_search_20250305", "max_uses": -1}]}, {"web_search": TOOL_CALLS_MAX}),
        ("messages", {"tools": [{"type": "web_search_20250305", "max_uses": True}]}, {"web_search": TOOL_CALLS_MAX}),
        # A tool of another shape beside it hides nothing.
        ("messages", {"tools": [{"type": "web_search_20250305", "max_uses": 4}, {"name": 3}]}, {"web_search": 4}),
        ("messages", {"tools": [{"type": "web_search_20250305", "max_uses": 4}, "x"]}, {"web_search": 4}),
        # OpenAI, built-in tools, 2026-11.
        ("responses", {"tools": [{"type": "web_search"}], "max_tool_calls": 3}, {"web_search": 3}),
        ("responses", {"tools": [{"type": "web_search_preview_2025_03_11"}]}, {"web_search": TOOL_CALLS_MAX}),
        (
            "responses",
            {
                "tools": [
                    {"type": "file_search", "vector_store_ids": ["v"]},
                    {"type": "code_interpreter", "container": {"type": "auto"}},
                    {"type": "image_generation"},
                ],
                "max_tool_calls": 2,
            },
            {"file_search": 2, "code_execution": 2},
        ),
        (
            "responses",
            {"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "web_search"}]}]},
            {"web_search": 10},
        ),
        (
            "responses",
            {
                "input": [
                    {"type": "additional_tools", "tools": [{"type": "web_search"}]},
                    {"role": "user", "content": "x"},
                ]
            },
            {"web_search": 10},
        ),
        # xAI, tools, 2026-11.
        ("responses", {"tools": [{"type": "x_search"}], "max_tool_calls": 1}, {"x_search": 1}),
        # OpenAI, web search in chat completions, 2026-11: one search for each request.
        ("chat", {"web_search_options": {}}, {"web_search": 1}),
        # OpenRouter, web search, 2026-11.
        ("chat", {"plugins": [{"id": "web", "max_results": 3}]}, {"web_search": 1}),
        ("chat", {"tools": [{"type": "openrouter:web_search", "parameters": {"max_uses": 2}}]}, {"web_search": 2}),
        # xAI, live search, 2025-12.
        ("chat", {"search_parameters": {"mode": "auto"}}, {"web_search": 20}),
        ("chat", {"search_parameters": {"mode": "on", "max_search_results": 3}}, {"web_search": 3}),
        ("chat", {"search_parameters": {"mode": "off"}}, {}),
        # Alibaba Cloud Model Studio, web search, 2026-08.
        ("chat", {"enable_search": True}, {"web_search": 1}),
        ("chat", {"enable_search": False}, {}),
        # OpenAI, shell tool, 2026-08: in a container it is billed like the code interpreter.
        (
            "responses",
            {"tools": [{"type": "shell", "environment": {"type": "container_auto"}}]},
            {"code_execution": 10},
        ),
        ("responses", {"tools": [{"type": "shell", "environment": {"type": "local"}}]}, {}),
        ("responses", {"tools": [{"type": "shell"}]}, {}),
        # A tool that is in no table is a unit of its own, so that its calls are not free by mistake.
        ("messages", {"tools": [{"type": "quantum_oracle_20270101", "max_uses": 1}]}, {"quantum_oracle": 1}),
    ],
    ids=lambda value: value if isinstance(value, str) else orjson.dumps(value).decode(),
)
def test_tools_of_the_provider_are_bounded(dialect: str, fields: dict[str, Any], calls: dict[str, int]) -> None:
    assert dict(terms_of(dialect, **fields).server_tools) == calls


@pytest.mark.parametrize(
    ("dialect", "fields", "tokens"),
    [
        ("messages", {"tools": [{"type": "web_search_20250305", "max_uses": 5}]}, 42_500),
        ("messages", {"tools": [{"type": "web_fetch_20250910", "max_uses": 2, "max_content_tokens": 1_000}]}, 4_500),
        ("responses", {"tools": [{"type": "mcp", "server_label": "x"}], "max_tool_calls": 2}, 10_500),
        ("chat", {"web_search_options": {}}, 8_000),
    ],
    ids=["five searches", "two fetches of a given length", "two MCP calls", "the search of a chat completion"],
)
def test_results_of_tools_are_input(dialect: str, fields: dict[str, Any], tokens: int) -> None:
    assert terms_of(dialect, **fields).tool_tokens_max == tokens


def test_an_mcp_call_has_no_fee() -> None:
    assert terms_of("responses", tools=[{"type": "mcp", "server_label": "x"}]).server_tools == ()


@pytest.mark.parametrize(
    ("dialect", "fields", "size"),
    [
        ("chat", {"web_search_options": {"search_context_size": "high"}}, "high"),
        ("responses", {"tools": [{"type": "web_search_preview", "search_context_size": "low"}]}, "low"),
        (
            "responses",
            {"tools": [{"type": "web_search", "search_context_size": s} for s in ("high", "low")]},
            "high",
        ),
        ("chat", {"web_search_options": {"search_context_size": ["high"]}}, ""),
    ],
    ids=["of a chat completion", "of a tool", "the largest of several", "of another type"],
)
def test_the_size_of_a_search_is_part_of_the_terms(dialect: str, fields: dict[str, Any], size: str) -> None:
    assert terms_of(dialect, **fields).search_context_size == size


@pytest.mark.parametrize(
    ("dialect", "fields", "further"),
    [
        # Anthropic, compaction, 2026-11: two mechanisms.
        (
            "messages",
            {"context_management": {"edits": [{"type": "clear_thinking_20251015"}, {"type": "compact_20260112"}]}},
            FurtherCallTerms(model="", kind="compaction"),
        ),
        ("messages", {"compaction": {"type": "summarize"}}, FurtherCallTerms(model="", kind="compaction")),
        # OpenAI, compaction, 2026-11.
        (
            "responses",
            {"context_management": [{"type": "compaction", "compact_threshold": 1000}]},
            FurtherCallTerms(model="", kind="compaction"),
        ),
        # Anthropic, advisor tool, 2026-11.
        (
            "messages",
            {"tools": [{"type": "advisor_20260301", "name": "advisor", "model": "claude-opus-4-8", "max_uses": 2}]},
            FurtherCallTerms(model="claude-opus-4-8", kind="advisor", calls_max=2, output_tokens_max=2_048),
        ),
        (
            "messages",
            {"tools": [{"type": "advisor_20260301", "model": "claude-opus-4-8", "max_tokens": 4_000}]},
            FurtherCallTerms(model="claude-opus-4-8", kind="advisor", calls_max=4, output_tokens_max=4_000),
        ),
        # Anthropic, fallbacks, 2026-11.
        (
            "messages",
            {"fallbacks": [{"model": "claude-opus-4-8"}]},
            FurtherCallTerms(model="claude-opus-4-8", kind="fallback"),
        ),
        # OpenAI, image generation tool, 2026-08: a picture is billed by the tokens of its own model.
        (
            "responses",
            {"tools": [{"type": "image_generation"}], "max_tool_calls": 2},
            FurtherCallTerms(
                model="gpt-image-1",
                kind="image_generation",
                calls_max=2,
                input_tokens_max=10_000,
                output_tokens_max=6_540,
            ),
        ),
        (
            "responses",
            {"tools": [{"type": "image_generation", "model": "gpt-image-2"}], "max_tool_calls": 1},
            FurtherCallTerms(
                model="gpt-image-2",
                kind="image_generation",
                calls_max=1,
                input_tokens_max=10_000,
                output_tokens_max=6_540,
            ),
        ),
        # OpenRouter, model fallbacks, 2026-11.
        ("chat", {"models": ["openai/gpt-4o"]}, FurtherCallTerms(model="openai/gpt-4o", kind="fallback")),
    ],
    ids=[
        "compact edit",
        "compaction",
        "OpenAI's compaction",
        "advisor",
        "advisor with max_tokens",
        "fallbacks",
        "pictures",
        "pictures of a named model",
        "models",
    ],
)
def test_calls_that_the_provider_may_add_are_part_of_the_terms(
    dialect: str, fields: dict[str, Any], further: FurtherCallTerms
) -> None:
    assert terms_of(dialect, **fields).further_calls == (further,)


def test_a_hostile_list_of_models_is_cut() -> None:
    assert len(terms_of("chat", models=["x"] * 10_000).further_calls) == 16


@pytest.mark.parametrize(
    ("dialect", "fields", "terms"),
    [
        ("chat", {"modalities": ["text", "audio"], "audio": {"voice": "alloy"}}, PriceTerms(has_audio_output=True)),
        ("chat", {"modalities": ["image", "text"]}, PriceTerms(has_image_output=True)),
        (
            "chat",
            {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "aGk="}}]}]},
            PriceTerms(has_audio_input=True),
        ),
        (
            "responses",
            {"input": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}, {"text": "x"}]}]},
            PriceTerms(has_audio_input=True),
        ),
    ],
    ids=["audio out", "images out", "audio in", "audio in an input item"],
)
def test_other_kinds_of_tokens_are_part_of_the_terms(dialect: str, fields: dict[str, Any], terms: PriceTerms) -> None:
    assert terms_of(dialect, **fields) == terms


def test_audio_is_no_state_of_a_provider() -> None:
    request = parsed("responses", input=[{"role": "user", "content": [{"type": "input_audio"}, {"text": "x"}]}])
    assert request.provider_state == frozenset()


@pytest.mark.parametrize(
    ("path", "body", "terms"),
    [
        ("/images/generations", b'{"model":"m","prompt":"x"}', PriceTerms(has_image_output=True)),
        ("/audio/speech", b'{"model":"m","input":"x"}', PriceTerms(has_audio_output=True)),
        ("/audio/transcriptions", b'{"model":"m"}', PriceTerms(has_audio_input=True)),
        ("/rerank", b'{"model":"m","service_tier":"priority"}', PriceTerms(service_tiers=("priority", ""))),
        ("/moderations", b'{"model":"m","service_tier":"priority"}', STANDARD_TERMS),
    ],
    ids=["images", "speech", "transcription", "tier", "free path"],
)
def test_a_path_that_passes_through_has_the_kinds_of_tokens_of_its_name(
    path: str, body: bytes, terms: PriceTerms
) -> None:
    assert passthrough.parse("POST", path, "application/json", body, "openai").price_terms == terms
