"""OpenAI and compatible providers: calls, bodies, usage and failures."""

from dataclasses import replace
from typing import Any

import pytest

from gateway.providers import openai_compatible
from gateway.values.usage import FurtherCall, Usage
from tests.snapshots import snapshot

SMALL = snapshot().deployments["small"]


@pytest.mark.parametrize(
    "usage, expected",
    [
        ({"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}, Usage(input=10, output=4)),
        ({"prompt_tokens": 10, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 8}, "completion_tokens_details": {"reasoning_tokens": 3}}, Usage(input=10, output=4, cached_input=8, reasoning=3)),
        ({"input_tokens": 10, "output_tokens": 4, "input_tokens_details": {"cached_tokens": 8}, "output_tokens_details": {"reasoning_tokens": 3}, "total_tokens": 14}, Usage(input=10, output=4, cached_input=8, reasoning=3)),
        ({"prompt_tokens": 9, "completion_tokens": 4, "prompt_cache_hit_tokens": 5}, Usage(input=9, output=4, cached_input=5)),
        ({"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 34}, Usage(input=10, output=24, reasoning=20)),
        ({"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 34, "completion_tokens_details": {"reasoning_tokens": 20}}, Usage(input=10, output=24, reasoning=20)),
        ({"prompt_tokens": 7, "total_tokens": 7}, Usage(input=7, output=0)),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, None),
        ({"prompt_tokens": 10}, Usage(input=10, output=0, exact=False)),
        ({"prompt_tokens": True, "completion_tokens": 1}, Usage(input=0, output=1, exact=False)),
        ({"prompt_tokens": 10**12, "completion_tokens": 1}, Usage(input=0, output=1, exact=False)),
        (None, None),
        ([], None),
    ],
    ids=['openai', 'openai with details', 'responses', 'deepseek cache', 'gemini counts reasoning separately', 'xai counts reasoning separately and reports it', 'embeddings', 'all zero', 'no output count', 'a boolean', 'out of range', 'missing', 'a list'],
)  # fmt: skip
def test_usage_is_normalized(usage, expected):
    assert openai_compatible.usage_of({"usage": usage}) == expected


IMAGE_USAGE = {
    "input_tokens": 100,
    "output_tokens": 1000,
    "input_tokens_details": {"text_tokens": 50, "image_tokens": 50},
}


@pytest.mark.parametrize(
    "data, output_image",
    [
        ([{"b64_json": "aGk="}], 1000),
        ([{"url": "https://example.com"}], 1000),
        ([{"embedding": []}], 0),
        ([], 0),
        (7, 0),
    ],
)
def test_the_output_of_the_images_api_is_images(data, output_image):
    expected = Usage(input=100, output=1000, input_image=50, output_image=output_image)
    assert openai_compatible.usage_of({"data": data, "usage": IMAGE_USAGE}) == expected


@pytest.mark.parametrize(
    "tools, model",
    [([{"type": "image_generation", "model": "gpt-image-2"}], "gpt-image-2"), ([{"type": "function"}], "gpt-image-1")],
    ids=["the model that the answer names", "the default model"],
)
def test_the_image_tool_s_tokens_are_a_call_of_its_model(tools, model):
    usage = openai_compatible.usage_of(
        {
            "usage": {"input_tokens": 9, "output_tokens": 4},
            "output": [{"type": "image_generation_call"}, {"type": "file_search_call"}],
            "tools": tools,
            "tool_usage": {"image_gen": IMAGE_USAGE},
        }
    )
    drawn = Usage(input=100, output=1000, input_image=50, output_image=1000)
    assert usage is not None and usage.server_tools == (("file_search", 1),)
    assert usage.further_calls == (FurtherCall(model=model, kind="image_generation", usage=drawn),)


@pytest.mark.parametrize(
    "status, body, code, retry_same",
    [
        (429, b'{"error":{"code":"insufficient_quota"}}', "provider_account", False),
        (429, b'{"error":{"code":"rate_limit_exceeded"}}', "provider_rate_limited", True),
        (401, b"{}", "provider_account", False),
        (400, b'{"error":{"message":"bad"}}', "provider_rejected", False),
        (500, b"\xff", "upstream_error", True),
        (302, b"", "upstream_error", False),
    ],
)  # fmt: skip
def test_an_error_status_maps_to_a_failure(status, body, code, retry_same):
    failure = openai_compatible.failure_of(status, body)
    assert (failure.code, failure.retry_same) == (code, retry_same)


def test_reasoning_effort_is_dropped_for_a_model_that_does_not_reason():
    document = {"messages": [], "reasoning_effort": "low"}
    sent = openai_compatible.adapted_body(document, "chat", snapshot().deployments["small"])[0]
    assert sent == {"model": "sim-small", "messages": []}


def encoded(base_url: str = SMALL.base_url, *, stream_usage: bool = True, **fields: Any) -> dict[str, Any]:
    deployment = replace(SMALL, base_url=base_url, stream_usage=stream_usage)
    document: dict[str, Any] = openai_compatible.adapted_body(fields, "chat", deployment)[0]
    return document


@pytest.mark.parametrize(
    "base_url, name",
    [
        ("https://api.openai.com/v1", "max_completion_tokens"),
        ("https://x.openai.azure.com/openai/v1", "max_completion_tokens"),
        ("http://127.0.0.1:8000/v1", "max_tokens"),
    ],
)
def test_the_output_limit_has_the_name_that_the_server_accepts(base_url, name):
    assert encoded(base_url, max_tokens=5) == {"model": "sim-small", name: 5}


def test_stream_options_are_dropped_for_a_server_without_them():
    options = {"include_usage": True}
    assert "stream_options" not in encoded(stream_usage=False, stream_options=options)
    assert encoded(stream_options=options)["stream_options"] == options


@pytest.mark.parametrize(
    "dialect, path", [("chat", "/chat/completions"), ("responses", "/responses"), ("embeddings", "/embeddings")]
)
def test_a_call_has_our_key_and_only_known_headers(dialect, path):
    headers = {"authorization": "Bearer caller", "openai-organization": "org", "openai-beta": "x", "user-agent": "sdk"}
    call = openai_compatible.build_call(dialect, (b"{}",), SMALL, headers)
    assert call.url == f"http://127.0.0.1:1/v1{path}"
    assert call.headers == {
        "openai-beta": "x", "user-agent": "sdk", "Accept-Encoding": "identity", "Content-Type": "application/json",
        "Authorization": "Bearer provider-secret",
    }  # fmt: skip


def test_a_pass_through_call_keeps_method_path_and_content_type():
    call = openai_compatible.build_passthrough_call(
        "DELETE", "/files/file-1", (), SMALL, {"content-type": "text/plain"}
    )
    assert (call.method, call.url) == ("DELETE", "http://127.0.0.1:1/v1/files/file-1")
    assert (call.upstream_dialect, call.headers["Content-Type"]) == ("passthrough", "text/plain")


def test_rate_limits_are_returned():
    headers = {"X-RateLimit-Remaining-Tokens": "5", "OpenAI-Processing-Ms": "9", "Set-Cookie": "c"}
    assert openai_compatible.returned_headers(headers) == {
        "x-ratelimit-remaining-tokens": "5",
        "openai-processing-ms": "9",
    }
