"""Usage and failures of providers, normalized."""

import pytest

from gateway.providers import PROVIDERS
from gateway.values.usage import Usage


@pytest.mark.parametrize(
    "provider, usage, expected",
    [
        ("openai", {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}, Usage(input=10, output=4)),
        ("openai", {"prompt_tokens": 10, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 8}, "completion_tokens_details": {"reasoning_tokens": 3}}, Usage(input=10, output=4, cached_input=8, reasoning=3)),
        ("openai", {"input_tokens": 10, "output_tokens": 4, "input_tokens_details": {"cached_tokens": 8}, "output_tokens_details": {"reasoning_tokens": 3}, "total_tokens": 14}, Usage(input=10, output=4, cached_input=8, reasoning=3)),
        ("openai", {"prompt_tokens": 9, "completion_tokens": 4, "prompt_cache_hit_tokens": 5}, Usage(input=9, output=4, cached_input=5)),
        ("openai", {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 34}, Usage(input=10, output=24, reasoning=20)),
        ("openai", {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 34, "completion_tokens_details": {"reasoning_tokens": 20}}, Usage(input=10, output=24, reasoning=20)),
        ("openai", {"prompt_tokens": 7, "total_tokens": 7}, Usage(input=7, output=0)),
        ("openai", {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, None),
        ("openai", {"prompt_tokens": 10}, None),
        ("openai", {"prompt_tokens": True, "completion_tokens": 1}, None),
        ("openai", {"prompt_tokens": 10**12, "completion_tokens": 1}, None),
        ("openai", None, None),
        ("openai", [], None),
        ("litellm", {"prompt_tokens": 100, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 10, "cache_creation_tokens": 60, "cache_creation_token_details": {"ephemeral_1h_input_tokens": 50}}}, Usage(input=100, output=4, cached_input=10, cache_write=60, cache_write_long=50)),
        ("anthropic", {"input_tokens": 10, "output_tokens": 4}, Usage(input=10, output=4)),
        ("anthropic", {"input_tokens": 10, "output_tokens": 4, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 50}, Usage(input=160, output=4, cached_input=100, cache_write=50)),
        ("anthropic", {"input_tokens": 0, "output_tokens": 4, "cache_creation_input_tokens": 50, "cache_creation": {"ephemeral_1h_input_tokens": 20}}, Usage(input=50, output=4, cache_write=50, cache_write_long=20)),
        ("anthropic", {"input_tokens": 1, "output_tokens": 4, "output_tokens_details": {"thinking_tokens": 9}}, Usage(input=1, output=4, reasoning=4)),
        ("anthropic", {"input_tokens": 0, "output_tokens": 0}, None),
        ("anthropic", {"input_tokens": None, "output_tokens": 4}, None),
    ],
    ids=[
        "openai", "openai with details", "responses", "deepseek cache", "gemini counts reasoning separately",
        "xai counts reasoning separately and reports it", "embeddings", "all zero", "no output count", "a boolean", "out of range",
        "missing", "a list", "bedrock cache through litellm", "anthropic", "anthropic counts its cache separately",
        "one-hour cache", "thinking is part of output", "anthropic all zero", "null",
    ],
)  # fmt: skip
def test_usage_is_normalized(provider, usage, expected):
    assert PROVIDERS[provider].usage_of(usage) == expected


@pytest.mark.parametrize(
    "provider, status, body, code, retry_same",
    [
        ("openai", 429, b'{"error":{"code":"insufficient_quota"}}', "provider_account", False),
        ("openai", 429, b'{"error":{"code":"rate_limit_exceeded"}}', "provider_rate_limited", True),
        ("openai", 401, b"{}", "provider_account", False),
        ("openai", 400, b'{"error":{"message":"bad"}}', "provider_rejected", False),
        ("openai", 500, b"\xff", "upstream_error", True),
        ("openai", 302, b"", "upstream_error", False),
        ("anthropic", 529, b'{"type":"error","error":{"type":"overloaded_error"}}', "upstream_error", True),
        ("anthropic", 429, b'{"type":"error","error":{"type":"rate_limit_error","details":{"error_code":"enforced_spend_limit_reached"}}}', "provider_account", False),
        ("anthropic", 400, b'{"type":"error","error":{"type":"invalid_request_error","message":"You have reached your specified workspace API usage limits."}}', "provider_account", False),
        ("anthropic", 400, b'{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low"}}', "provider_account", False),
        ("anthropic", 400, b'{"type":"error","error":{"type":"invalid_request_error","message":"max_tokens: too large"}}', "provider_rejected", False),
    ],
)  # fmt: skip
def test_an_error_status_maps_to_a_failure(provider, status, body, code, retry_same):
    failure = PROVIDERS[provider].failure_of(status, body)
    assert (failure.code, failure.retry_same) == (code, retry_same)
