"""Usage objects: OpenAI's input includes cached tokens, Anthropic's does not; invalid counts are 0."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from gateway.dialects.translation.usage_objects import (
    chat_to_messages_usage,
    chat_to_responses_usage,
    messages_to_chat_usage,
)
from gateway.providers import anthropic, openai_compatible
from gateway.values.usage import NO_USAGE


@pytest.mark.parametrize(
    "usage, expected",
    [
        ({"prompt_tokens": 10, "completion_tokens": 4}, (10, 0, 0, 4)),
        ({"prompt_tokens": 10, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 6, "cache_write_tokens": 3}}, (1, 3, 6, 4)),
        ({"prompt_tokens": 10, "completion_tokens": 4, "prompt_tokens_details": {"cache_creation_tokens": 3}}, (7, 3, 0, 4)),
        ({"prompt_tokens": 2, "prompt_tokens_details": {"cached_tokens": 6}}, (0, 0, 2, 0)),
        ({"prompt_tokens": -1, "completion_tokens": True, "prompt_tokens_details": 7}, (0, 0, 0, 0)),
        (None, (0, 0, 0, 0)),
    ],
    ids=["plain", "a cache", "litellm's name for writes", "more cached than input", "invalid counts", "none"],
)  # fmt: skip
def test_cached_tokens_are_taken_out_of_the_input_for_messages(usage, expected):
    translated = chat_to_messages_usage({"usage": usage})
    assert tuple(translated.values()) == expected
    assert list(translated) == [
        "input_tokens",
        "cache_creation_input_tokens",
        "cache_read_input_tokens",
        "output_tokens",
    ]


@pytest.mark.parametrize(
    "usage, prompt, cached, reasoning",
    [
        ({"input_tokens": 3, "output_tokens": 5}, 3, 0, 0),
        ({"input_tokens": 3, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 2, "output_tokens": 5}, 9, 4, 0),
        ({"input_tokens": 3, "output_tokens": 5, "output_tokens_details": {"thinking_tokens": 9}}, 3, 0, 5),
        ("x", 0, 0, 0),
    ],
    ids=["plain", "a cache", "thinking is part of output", "no object"],
)  # fmt: skip
def test_cached_tokens_are_part_of_the_input_for_chat(usage, prompt, cached, reasoning):
    translated = messages_to_chat_usage({"usage": usage})
    assert translated["prompt_tokens"] == prompt
    assert translated["total_tokens"] == prompt + translated["completion_tokens"]
    assert translated["prompt_tokens_details"]["cached_tokens"] == cached
    assert translated["completion_tokens_details"]["reasoning_tokens"] == reasoning


COUNTS = st.integers(0, 10**6)


@given(input_=COUNTS, cached=COUNTS, written=COUNTS, output=COUNTS)
def test_messages_usage_survives_both_translations(input_, cached, written, output):
    usage = {
        "input_tokens": input_,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": cached,
        "output_tokens": output,
    }
    assert chat_to_messages_usage({"usage": messages_to_chat_usage({"usage": usage})}) == usage


def test_responses_usage_has_the_same_counts():
    usage = {
        "prompt_tokens": 10, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 6},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }  # fmt: skip
    assert chat_to_responses_usage({"usage": usage}) == {
        "input_tokens": 10, "input_tokens_details": {"cached_tokens": 6, "cache_write_tokens": 0}, "output_tokens": 4,
        "output_tokens_details": {"reasoning_tokens": 3}, "total_tokens": 14,
    }  # fmt: skip
    assert chat_to_responses_usage(None) is None


def test_the_counts_are_those_that_are_booked():
    answer = {
        "usage": {
            "prompt_tokens": 35, "completion_tokens": 12, "total_tokens": 109, "num_cached_tokens": 8,
            "prompt_tokens_details": {"cache_creation_tokens": 20, "cache_creation_token_details": {"ephemeral_1h_input_tokens": 15}},
            "server_tool_use": {"web_search_requests": 2},
        },
        "service_tier": "priority",
    }  # fmt: skip
    assert chat_to_messages_usage(answer) == {
        "input_tokens": 7, "cache_creation_input_tokens": 20, "cache_read_input_tokens": 8, "output_tokens": 74,
        "cache_creation": {"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 15},
        "output_tokens_details": {"thinking_tokens": 62}, "service_tier": "priority",
        "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 0},
    }  # fmt: skip
    assert chat_to_responses_usage(answer) == {
        "input_tokens": 35, "input_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 20},
        "output_tokens": 74, "output_tokens_details": {"reasoning_tokens": 62}, "total_tokens": 109,
    }  # fmt: skip
    # Anthropic's priority tier is capacity that is paid for beforehand: its tokens cost what they cost elsewhere.
    booked = structs.replace(openai_compatible.usage_of(answer) or NO_USAGE, service_tier="")
    assert anthropic.usage_of({"usage": chat_to_messages_usage(answer)}) == booked


def test_an_answer_of_a_fallback_shows_its_counts():
    fallback = {"type": "fallback_message", "model": "other", "input_tokens": 412, "output_tokens": 264}
    usage = {"input_tokens": 412, "output_tokens": 264, "iterations": [fallback]}
    translated = messages_to_chat_usage({"usage": usage})
    assert (translated["prompt_tokens"], translated["completion_tokens"]) == (412, 264)


@given(input_=COUNTS, output=COUNTS, cached=COUNTS, written=COUNTS, reasoning=COUNTS)
def test_any_counts_of_chat_are_booked_as_the_caller_sees_them(input_, output, cached, written, reasoning):
    details = {"cached_tokens": cached, "cache_write_tokens": written}
    usage = {
        "prompt_tokens": input_, "completion_tokens": output, "total_tokens": input_ + output,
        "prompt_tokens_details": details, "completion_tokens_details": {"reasoning_tokens": reasoning},
    }  # fmt: skip
    booked = openai_compatible.usage_of({"usage": usage})
    assert anthropic.usage_of({"usage": chat_to_messages_usage({"usage": usage})}) == booked
    assert openai_compatible.usage_of({"usage": chat_to_responses_usage({"usage": usage})}) == booked
