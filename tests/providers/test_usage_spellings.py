"""Usage in the spellings of many providers; the counts are those of recorded answers or of the provider's documentation."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.providers import anthropic, openai_compatible
from gateway.providers.usage_spellings import merged_usage, read_usage, token_count, usage_objects_of
from gateway.values.usage import Usage
from tests.dialects.json_values import JSON_VALUES


@pytest.mark.parametrize(
    "value, count",
    [
        (0, 0), (7, 7), (100_000_000, 100_000_000), (100_000_001, None), (-1, None), (True, None), (12.0, 12), (11.2, 12),
        ("7", 7), ("12.0", 12), ("x", None), ("nan", None), (float("nan"), None), (float("inf"), None), (-0.5, None),
        ("9" * 40, None), (None, None), ({}, None),
    ],
)  # fmt: skip
def test_plausible_numbers_are_counts_also_as_fractions_and_text(value, count):
    assert token_count(value) == count


# Source and date of each: a recording of pydantic/pydantic-ai (P), vercel/ai (V) or envoyproxy/ai-gateway (E) as of
# 2026-08-22, or the provider's documentation as of 2026-08 (D).
SPELLINGS = {
    "Mistral counts cached tokens at the top level (P)": (
        {"prompt_tokens": 64, "completion_tokens": 6, "total_tokens": 70, "num_cached_tokens": 32},
        Usage(input=64, output=6, cached_input=32),
    ),
    "Mistral's other name of the details (D)": (
        {"prompt_tokens": 64, "completion_tokens": 6, "total_tokens": 70, "prompt_token_details": {"cached_tokens": 32}},
        Usage(input=64, output=6, cached_input=32),
    ),
    "Perplexity's agents (D)": (
        {"input_tokens": 3681, "output_tokens": 780, "total_tokens": 4461, "input_tokens_details": {"cache_read_input_tokens": 100, "cache_creation_input_tokens": 200}},
        Usage(input=3681, output=780, cached_input=100, cache_write=200),
    ),
    "Moonshot counts cached tokens at the top level (V)": (
        {"prompt_tokens": 20, "completion_tokens": 30, "total_tokens": 50, "cached_tokens": 10, "completion_tokens_details": {"reasoning_tokens": 22}},
        Usage(input=20, output=30, cached_input=10, reasoning=22),
    ),
    "DeepSeek counts hits and misses of its cache (V)": (
        {"prompt_tokens": 339, "completion_tokens": 92, "total_tokens": 431, "prompt_cache_hit_tokens": 320, "prompt_cache_miss_tokens": 19, "prompt_tokens_details": {"cached_tokens": 320}},
        Usage(input=339, output=92, cached_input=320),
    ),
    "xAI counts reasoning beside the output (V)": (
        {"prompt_tokens": 12, "completion_tokens": 2, "total_tokens": 354, "prompt_tokens_details": {"cached_tokens": 11}, "completion_tokens_details": {"reasoning_tokens": 340}},
        Usage(input=12, output=342, cached_input=11, reasoning=340),
    ),
    "Gemini's compatible API names it in the total only (P)": (
        {"prompt_tokens": 35, "completion_tokens": 12, "total_tokens": 109},
        Usage(input=35, output=74, reasoning=62),
    ),
    "reasoning beside an output without a total (D)": (
        {"prompt_tokens": 12, "completion_tokens": 2, "completion_tokens_details": {"reasoning_tokens": 340}},
        Usage(input=12, output=342, reasoning=340),
    ),
    "reasoning one above an output that the total confirms (P)": (
        {"prompt_tokens": 43, "completion_tokens": 10, "total_tokens": 53, "completion_tokens_details": {"reasoning_tokens": 11}},
        Usage(input=43, output=10, reasoning=10),
    ),
    "Perplexity counts reasoning and citations beside both (D)": (
        {"prompt_tokens": 33, "completion_tokens": 7163, "total_tokens": 7196, "citation_tokens": 20016, "reasoning_tokens": 73997},
        Usage(input=20049, output=81160, reasoning=73997),
    ),
    "SGLang counts reasoning at the top level as part (D)": (
        {"prompt_tokens": 9, "completion_tokens": 40, "total_tokens": 49, "reasoning_tokens": 30},
        Usage(input=9, output=40, reasoning=30),
    ),
    "OpenAI writes to a cache (P)": (
        {"prompt_tokens": 4020, "completion_tokens": 4, "total_tokens": 4024, "prompt_tokens_details": {"cache_write_tokens": 4012, "cached_tokens": 0}},
        Usage(input=4020, output=4, cache_write=4012),
    ),
    "the same tokens read from a cache and written (P)": (
        {"prompt_tokens": 2168, "completion_tokens": 100, "total_tokens": 2268, "prompt_tokens_details": {"cache_write_tokens": 2161, "cached_tokens": 2161}},
        Usage(input=2168, output=100, cached_input=2161, cache_write=7),
    ),
    "Alibaba writes to a cache (D)": (
        {"prompt_tokens": 1500, "completion_tokens": 4, "total_tokens": 1504, "prompt_tokens_details": {"cached_tokens": 0, "cache_creation_input_tokens": 1494, "cache_creation": {"ephemeral_5m_input_tokens": 1494}}},
        Usage(input=1500, output=4, cache_write=1494),
    ),
    "Anthropic's names beside OpenAI's, as parts of the input (D)": (
        {"prompt_tokens": 30, "completion_tokens": 4, "total_tokens": 34, "cache_read_input_tokens": 10, "cache_creation_input_tokens": 15},
        Usage(input=30, output=4, cached_input=10, cache_write=15),
    ),
    "Anthropic's names beside OpenAI's, more than the input (D)": (
        {"prompt_tokens": 5, "completion_tokens": 4, "cache_read_input_tokens": 10, "cache_creation_input_tokens": 15},
        Usage(input=30, output=4, cached_input=10, cache_write=15),
    ),
    "Anthropic's names beside OpenAI's, in the total only (D)": (
        {"prompt_tokens": 50, "completion_tokens": 4, "total_tokens": 79, "cache_read_input_tokens": 10, "cache_creation_input_tokens": 15},
        Usage(input=75, output=4, cached_input=10, cache_write=15),
    ),
    "Bedrock counts its caches beside the input (P)": (
        {"inputTokens": 433, "outputTokens": 16, "totalTokens": 3201, "cacheReadInputTokens": 2752, "cacheWriteInputTokens": 0},
        Usage(input=3185, output=16, cached_input=2752),
    ),
    "cached tokens above the input, in the total beside it": (
        {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 1150, "prompt_tokens_details": {"cached_tokens": 1000}},
        Usage(input=1100, output=50, cached_input=1000),
    ),
    "cached tokens and reasoning, both in the total only": (
        {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 1170, "prompt_tokens_details": {"cached_tokens": 1000}, "completion_tokens_details": {"reasoning_tokens": 20}},
        Usage(input=1100, output=70, cached_input=1000, reasoning=20),
    ),
    "tokens read from a cache and written above the input, in the total": (
        {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 1150, "prompt_tokens_details": {"cached_tokens": 400, "cache_write_tokens": 600}},
        Usage(input=1100, output=50, cached_input=400, cache_write=600),
    ),
    "cached tokens within the input, and reasoning in the total": (
        {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 250, "prompt_tokens_details": {"cached_tokens": 100}},
        Usage(input=100, output=150, cached_input=100, reasoning=100),
    ),
    "Cohere bills less than it reads (V)": (
        {"billed_units": {"input_tokens": 119, "output_tokens": 52}, "tokens": {"input_tokens": 1549, "output_tokens": 103}},
        Usage(input=119, output=52),
    ),
    "Voyage reports the total alone (P)": ({"total_tokens": 3}, Usage(input=3, output=0)),
    "a null that the total makes up for (D)": (
        {"prompt_tokens": None, "completion_tokens": 5, "total_tokens": 15}, Usage(input=10, output=5),
    ),
    "OpenAI's audio in and out (E)": (
        {"prompt_tokens": 22, "completion_tokens": 18, "total_tokens": 40, "prompt_tokens_details": {"audio_tokens": 3, "cached_tokens": 2, "cached_tokens_details": {"audio_tokens": 1, "text_tokens": 1}}, "completion_tokens_details": {"audio_tokens": 12, "text_tokens": 6}},
        Usage(input=22, output=18, cached_input=2, input_audio=3, cached_audio=1, output_audio=12),
    ),
    "OpenAI's transcription by tokens (D)": (
        {"type": "tokens", "input_tokens": 14, "input_token_details": {"text_tokens": 0, "audio_tokens": 14}, "output_tokens": 45, "total_tokens": 59},
        Usage(input=14, output=45, input_audio=14),
    ),
    "Mistral's audio is in the total only (D)": (
        {"prompt_audio_seconds": 203, "prompt_tokens": 4, "completion_tokens": 635, "total_tokens": 3264},
        Usage(input=2629, output=635, input_audio=2625),
    ),
    "images in and out (D)": (
        {"input_tokens": 100, "output_tokens": 1000, "total_tokens": 1100, "input_tokens_details": {"text_tokens": 50, "image_tokens": 50}, "output_tokens_details": {"image_tokens": 900, "text_tokens": 100}},
        Usage(input=100, output=1000, input_image=50, output_image=900),
    ),
    "fractions and text (D)": (
        {"prompt_tokens": 12.0, "completion_tokens": "7", "total_tokens": "19.0", "prompt_tokens_details": {"cached_tokens": 4.0}},
        Usage(input=12, output=7, cached_input=4),
    ),
    "details above the totals (D)": (
        {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10, "prompt_tokens_details": {"cached_tokens": 9, "audio_tokens": 9, "image_tokens": 9}, "completion_tokens_details": {"reasoning_tokens": 9, "audio_tokens": 9, "image_tokens": 9}},
        Usage(input=5, output=5, cached_input=5, reasoning=5, input_audio=5, output_audio=5),
    ),
    "counts that are none (D)": (
        {"prompt_tokens": 5, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": -4, "audio_tokens": True}, "completion_tokens_details": None},
        Usage(input=5, output=5),
    ),
    "an input that is a placeholder (D)": (
        {"prompt_tokens": 0, "completion_tokens": 5, "total_tokens": 5}, Usage(input=0, output=5, exact=False),
    ),
    "an input that is free (P)": (
        {"prompt_tokens": 0, "completion_tokens": 180, "total_tokens": 180, "cost": 0.00045},
        Usage(input=0, output=180, reported_cost_nusd=450_000),
    ),
    "only the input (D)": ({"prompt_tokens": 5, "completion_tokens": None}, Usage(input=5, output=0, exact=False)),
    "seconds of audio and no tokens (E)": ({"type": "duration", "seconds": 7}, None),
}  # fmt: skip


@pytest.mark.parametrize("usage, expected", SPELLINGS.values(), ids=SPELLINGS)
def test_a_provider_s_spelling_is_read(usage, expected):
    assert openai_compatible.usage_of({"usage": usage}) == expected


USAGE = {"prompt_tokens": 5000, "completion_tokens": 700, "total_tokens": 5700}
ZEROS = dict.fromkeys(USAGE, 0)


@pytest.mark.parametrize(
    "answer",
    [
        {"usage": USAGE},
        {"choices": [{"index": 0, "usage": USAGE}]},
        {"usage": None, "choices": [{"index": 0, "usage": USAGE}]},
        {"usage": ZEROS, "choices": [{"index": 0, "usage": USAGE}]},
        {"x_groq": {"id": "r", "usage": USAGE}},
        {"usage": "none", "x_groq": "none", "choices": [None, {"usage": 1}, {"usage": USAGE}]},
    ],
    ids=["top level", "a choice", "null at the top", "zeros at the top", "Groq's own object", "beside other shapes"],
)
def test_usage_is_found_wherever_it_is(answer):
    assert openai_compatible.usage_of(answer) == Usage(input=5000, output=700)


def test_the_outputs_of_several_choices_are_added_up():
    choices = [{"usage": USAGE}, {"usage": {**USAGE, "completion_tokens": 300, "total_tokens": 5300}}]
    assert openai_compatible.usage_of({"choices": choices}) == Usage(input=5000, output=1000)


@pytest.mark.parametrize(
    "earlier, later, merged",
    [
        (None, USAGE, USAGE),
        (USAGE, ZEROS, USAGE),
        (USAGE, {"prompt_tokens": None, "completion_tokens": -3, "total_tokens": "x"}, USAGE),
        ({"prompt_tokens": 5000, "completion_tokens": 3}, USAGE, USAGE),
        (ZEROS, USAGE, USAGE),
        ({"details": {"cached": 9}, "tier": None}, {"details": {"cached": 0, "new": 1}, "tier": "flex"}, {"details": {"cached": 9, "new": 1}, "tier": "flex"}),
        ({"cost": 0.5}, {"cost": 0}, {"cost": 0.5}),
        ({"iterations": [1]}, {"iterations": [1, 2]}, {"iterations": [1, 2]}),
    ],
    ids=["the first", "zeros", "no counts", "counts that grew", "after zeros", "groups", "a cost", "a list"],
)  # fmt: skip
def test_a_placeholder_never_replaces_a_figure(earlier, later, merged):
    assert merged_usage(earlier, later) == merged


def nested(depth: int) -> dict[str, Any]:
    usage: dict[str, Any] = {}
    for _ in range(depth):
        usage = {"prompt_tokens_details": usage}
    return usage


def test_groups_nested_without_end_are_read():
    assert read_usage(nested(5000)) is None
    assert list(merged_usage(nested(5000), nested(5000))) == ["prompt_tokens_details"]


def test_a_stream_of_ever_new_names_stays_small():
    usage: dict[str, Any] | None = None
    for number in range(500):
        usage = merged_usage(usage, {"prompt_tokens": number + 1, f"name_{number}": 1})
    assert usage is not None and len(usage) < 200 and usage["prompt_tokens"] == 500
    assert len(merged_usage(None, {str(number): 1 for number in range(500)})) < 200


KNOWN_NAMES = st.sampled_from(
    [
        "prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens", "cached_tokens",
        "cache_read_input_tokens", "cache_creation_input_tokens", "reasoning_tokens", "citation_tokens", "audio_tokens",
        "image_tokens", "cache_write_tokens", "num_cached_tokens", "prompt_audio_seconds", "cached_tokens_details",
        "prompt_tokens_details", "completion_tokens_details", "cache_creation", "ephemeral_1h_input_tokens",
        "ephemeral_5m_input_tokens", "server_tool_use", "web_search_requests", "cost", "service_tier", "iterations",
        "type", "model",
    ]
)  # fmt: skip
COUNTS = st.one_of(
    st.integers(-5, 100), st.floats(), st.booleans(), st.none(), st.sampled_from(["7", "message", "nan"])
)
USAGES = st.recursive(
    COUNTS,
    lambda values: st.one_of(st.dictionaries(KNOWN_NAMES, values, max_size=12), st.lists(values, max_size=4)),
    max_leaves=40,
)


@given(usage=st.one_of(USAGES, JSON_VALUES), beside=st.booleans())
def test_usage_of_any_shape_keeps_the_invariants(usage, beside):
    for answer in ({"usage": usage}, {"choices": [{"usage": usage}]}, {"tool_usage": {"image_gen": usage}}, usage):
        # Usage asserts its invariants when it is built.
        for provider in (openai_compatible, anthropic):
            normalized = provider.usage_of(answer)
            assert normalized is None or (normalized.input >= 0 and normalized.output >= 0)
    if isinstance(usage, dict):
        assert read_usage(merged_usage(usage, usage)) == read_usage(usage)
        assert list(usage_objects_of({"usage": usage})) == [usage]
