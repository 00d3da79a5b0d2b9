"""Anthropic: calls, bodies, usage and failures."""

from typing import Any

import pytest

from gateway.providers import anthropic
from gateway.values.usage import NO_USAGE, FurtherCall, Usage
from tests.snapshots import snapshot

SMALL = snapshot().deployments["small"]


@pytest.mark.parametrize(
    "usage, expected",
    [
        ({"input_tokens": 10, "output_tokens": 4}, Usage(input=10, output=4)),
        ({"input_tokens": 10, "output_tokens": 4, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 50}, Usage(input=160, output=4, cached_input=100, cache_write=50)),
        ({"input_tokens": 0, "output_tokens": 4, "cache_creation_input_tokens": 50, "cache_creation": {"ephemeral_1h_input_tokens": 20}}, Usage(input=50, output=4, cache_write=50, cache_write_long=20)),
        ({"input_tokens": 1, "output_tokens": 4, "output_tokens_details": {"thinking_tokens": 9}}, Usage(input=1, output=4, reasoning=4)),
        ({"input_tokens": 0, "output_tokens": 0}, None),
        ({"input_tokens": None, "output_tokens": 4}, Usage(input=0, output=4, exact=False)),
    ],
    ids=['anthropic', 'anthropic counts its cache separately', 'one-hour cache', 'thinking is part of output', 'anthropic all zero', 'null'],
)  # fmt: skip
def test_usage_is_normalized(usage, expected):
    assert anthropic.usage_of({"usage": usage}) == expected


def iteration(kind: str, input_: int, output: int, **fields: Any) -> dict[str, Any]:
    return {"type": kind, "input_tokens": input_, "output_tokens": output, **fields}


def call(kind: str, input_: int, output: int, model: str = "", cache_write: int = 0, reasoning: int = 0) -> FurtherCall:
    usage = Usage(input=input_, output=output, cache_write=cache_write, reasoning=reasoning)
    return FurtherCall(model=model, kind=kind, usage=usage)


# Counts of recordings: pydantic/pydantic-ai test_anthropic_compaction_*, test_anthropic_advisor_tool, vercel/ai
# anthropic-fallback, as of 2026-08-22.
@pytest.mark.parametrize(
    "usage, expected",
    [
        (
            {"input_tokens": 220, "output_tokens": 8, "iterations": [iteration("compaction", 55196, 125), iteration("message", 220, 8)]},
            Usage(input=55416, output=133, further_calls=(call("compaction", 55196, 125),)),
        ),
        (
            {"input_tokens": 229, "output_tokens": 5, "iterations": [iteration("compaction", 100, 131, cache_creation_input_tokens=55096), iteration("message", 229, 5)]},
            Usage(input=55425, output=136, cache_write=55096, further_calls=(call("compaction", 55196, 131, cache_write=55096),)),
        ),
        (
            {"input_tokens": 2390, "output_tokens": 121, "output_tokens_details": {"thinking_tokens": 28}, "iterations": [iteration("message", 1128, 110), iteration("advisor_message", 2518, 22, model="claude-opus-4-8"), iteration("message", 1262, 11)]},
            Usage(input=2390, output=121, reasoning=28, further_calls=(call("message", 1128, 110, reasoning=17), call("advisor_message", 2518, 22, "claude-opus-4-8"))),
        ),
        (
            {"input_tokens": 412, "output_tokens": 264, "iterations": [iteration("message", 408, 0, model="claude-fable-5"), iteration("fallback_message", 412, 264, model="claude-opus-4-8")]},
            Usage(input=0, output=0, further_calls=(call("fallback_message", 412, 264, "claude-opus-4-8"),)),
        ),
        (
            {"input_tokens": 412, "output_tokens": 264, "iterations": [iteration("message", 408, 30, model="claude-fable-5"), iteration("fallback_message", 412, 264, model="claude-opus-4-8")]},
            Usage(input=408, output=30, further_calls=(call("fallback_message", 412, 264, "claude-opus-4-8"),)),
        ),
        (
            {"input_tokens": 10, "output_tokens": 5, "iterations": [iteration("message", 10, 5)]},
            Usage(input=10, output=5),
        ),
        (
            {"input_tokens": 10, "output_tokens": 5, "iterations": [iteration("message", 4, 5), iteration("message", 4, 5)]},
            Usage(input=10, output=5),
        ),
        (
            {"input_tokens": 0, "output_tokens": 0, "iterations": [iteration("message", 4, 5), iteration("message", 6, 1)]},
            Usage(input=10, output=6, further_calls=(call("message", 4, 5),)),
        ),
        (
            {"input_tokens": 10, "output_tokens": 5, "iterations": [7, None, {}, {"type": [], "input_tokens": "x"}]},
            Usage(input=10, output=5),
        ),
    ],
    ids=[
        "compaction is beside the totals", "compaction with a cache", "an advisor of another model",
        "a fallback after a refusal without output", "a fallback after a refusal amidst the output", "one message",
        "messages that do not add up", "messages alone", "other shapes",
    ],
)  # fmt: skip
def test_calls_within_a_request_are_read(usage, expected):
    assert anthropic.usage_of({"usage": usage}) == expected


@pytest.mark.parametrize(
    "content, stop_reason, billed",
    [([], "refusal", False), ([{"type": "text", "text": "I"}], "refusal", True), ([], "end_turn", True)],
    ids=["refused before any output", "refused amidst the output", "an empty answer"],
)
def test_a_refusal_before_any_output_is_not_billed(content, stop_reason, billed):
    answer = {"content": content, "stop_reason": stop_reason, "usage": {"input_tokens": 18, "output_tokens": 5}}
    assert anthropic.usage_of(answer) == (Usage(input=18, output=5) if billed else NO_USAGE)


@pytest.mark.parametrize(
    "status, body, code, retry_same",
    [
        (529, b'{"type":"error","error":{"type":"overloaded_error"}}', "upstream_error", True),
        (429, b'{"type":"error","error":{"type":"rate_limit_error","details":{"error_code":"enforced_spend_limit_reached"}}}', "provider_account", False),
        (400, b'{"type":"error","error":{"type":"invalid_request_error","message":"You have reached your specified workspace API usage limits."}}', "provider_account", False),
        (400, b'{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low"}}', "provider_account", False),
        (400, b'{"type":"error","error":{"type":"invalid_request_error","message":"max_tokens: too large"}}', "provider_rejected", False),
    ],
)  # fmt: skip
def test_an_error_status_maps_to_a_failure(status, body, code, retry_same):
    failure = anthropic.failure_of(status, body)
    assert (failure.code, failure.retry_same) == (code, retry_same)


@pytest.mark.parametrize(
    "config, expected",
    [
        ("", {}),
        (", reasoning: true", {"thinking": {"type": "enabled", "budget_tokens": 3999}}),
        (
            ", reasoning: true, adaptive_thinking: true",
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}},
        ),
    ],
    ids=["no reasoning", "thinking budget", "adaptive thinking"],
)
def test_thinking_is_set_in_the_form_that_the_model_accepts(config, expected):
    deployment = snapshot(small=config).deployments["small"]
    document = {"messages": [], "thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}
    sent = anthropic.adapted_body(document, "messages", deployment)[0]
    assert sent == {"model": "sim-small", "max_tokens": 4000, "messages": [], **expected}


ADAPTIVE = snapshot(small=", reasoning: true, adaptive_thinking: true").deployments["small"]


def encoded(**fields: Any) -> dict[str, Any]:
    document: dict[str, Any] = anthropic.adapted_body({"messages": [], **fields}, "messages", ADAPTIVE)[0]
    return document


@pytest.mark.parametrize("kind", ["any", "tool"])
def test_thinking_is_dropped_where_a_tool_is_forced(kind):
    assert "thinking" not in encoded(thinking={"type": "adaptive"}, tool_choice={"type": kind})
    assert "thinking" in encoded(thinking={"type": "adaptive"}, tool_choice={"type": "auto"})


def test_sampling_fields_are_dropped_beside_thinking():
    sampling = {"temperature": 0.5, "top_p": 0.9, "top_k": 5}
    assert not sampling.keys() & encoded(thinking={"type": "adaptive"}, **sampling).keys()
    assert sampling.keys() <= encoded(**sampling).keys()


def test_a_budget_below_the_minimum_is_no_thinking():
    deployment = snapshot(small=", reasoning: true").deployments["small"]
    document = {"messages": [], "max_tokens": 1000, "thinking": {"type": "adaptive"}}
    assert "thinking" not in anthropic.adapted_body(document, "messages", deployment)[0]


@pytest.mark.parametrize(
    "tokens, thinking",
    [
        (9000, {"type": "enabled", "budget_tokens": 8000}),
        (8000, {"type": "enabled", "budget_tokens": 4000}),
        (1500, {"type": "enabled", "budget_tokens": 1024}),
        (1024, None),
    ],
    ids=["above the budget", "at the budget", "near the minimum", "at the minimum"],
)
def test_the_thinking_budget_stays_below_the_output_limit(tokens, thinking):
    document = {"max_tokens": 10_000, "thinking": {"type": "enabled", "budget_tokens": 8000}}
    limited = anthropic.with_output_limit(document, "messages", SMALL, tokens)
    assert (limited["max_tokens"], limited.get("thinking")) == (tokens, thinking)


@pytest.mark.parametrize(
    "headers, path",
    [({}, "/v1/messages"), ({"anthropic-beta": "x"}, "/v1/messages?beta=true")],
    ids=["plain", "with beta features"],
)
def test_a_call_has_the_key_and_the_version_and_no_caller_headers(headers, path):
    call = anthropic.build_call("messages", (b"{}",), SMALL, {**headers, "x-api-key": "caller", "cookie": "c"})
    assert call.url == f"http://127.0.0.1:1{path}" and call.method == "POST"
    assert call.headers["x-api-key"] == "provider-secret" and "cookie" not in call.headers
    assert (call.headers["anthropic-version"], call.headers["Content-Type"]) == ("2023-06-01", "application/json")


def test_the_caller_s_version_and_content_type_are_kept():
    headers = {"anthropic-version": "2024-01-01", "content-type": "multipart/form-data; boundary=x"}
    call = anthropic.build_passthrough_call("POST", "/files", (b"x",), SMALL, headers)
    assert (call.url, call.upstream_dialect) == ("http://127.0.0.1:1/v1/files", "passthrough")
    assert call.headers["anthropic-version"] == "2024-01-01" and call.headers["Content-Type"].startswith("multipart/")
    assert "Content-Type" not in anthropic.build_passthrough_call("GET", "/files", (), SMALL, {}).headers


def test_anthropic_s_own_headers_are_returned():
    headers = {"Anthropic-RateLimit-Requests-Limit": "5", "Request-Id": "r", "Set-Cookie": "c", "Server": "s"}
    assert anthropic.returned_headers(headers) == {"anthropic-ratelimit-requests-limit": "5", "request-id": "r"}


def test_the_priority_tier_has_no_rates_of_its_own():
    # Claude API, service tiers, 2026-11: committed capacity, drawn down at the ratios of the standard rates.
    usage = anthropic.usage_of({"usage": {"input_tokens": 9, "output_tokens": 1, "service_tier": "priority"}})
    assert usage == Usage(input=9, output=1)
