"""Deployments behind litellm: usage, and what may reach it."""

from typing import Any

import pytest

from gateway.providers import litellm
from gateway.values.usage import Usage
from tests.snapshots import snapshot

SMALL = snapshot().deployments["small"]


@pytest.mark.parametrize(
    "usage, expected",
    [
        ({"prompt_tokens": 100, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 10, "cache_creation_tokens": 60, "cache_creation_token_details": {"ephemeral_1h_input_tokens": 50}}}, Usage(input=100, output=4, cached_input=10, cache_write=60, cache_write_long=50)),
    ],
    ids=['bedrock cache through litellm'],
)  # fmt: skip
def test_usage_is_normalized(usage, expected):
    assert litellm.usage_of({"usage": usage}) == expected


def part(kind: str, content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": kind, kind: content}]}]}


@pytest.mark.parametrize(
    "document, param",
    [
        ({"api_key": "x"}, "api_key"),
        ({"callbacks": ["x"]}, "callbacks"),
        (part("image_url", {"url": "http://inside"}), "messages.0.content"),
        (part("image_url", "http://inside"), "messages.0.content"),
        (part("file", {"file_id": "file-1"}), "messages.0.content"),
        (part("video_url", {"url": "data:x"}), "messages.0.content"),
        (part("image_url", {"url": "data:image/png;base64,AAAA"}), None),
        (part("file", {"file_data": "data:application/pdf;base64,AAAA"}), None),
        (part("text", "x"), None),
        ({"api_key": None, "metadata": {"a": "b"}, "model": "m"}, None),
        ({"messages": "x"}, None),
    ],
    ids=[
        "a key", "a callback", "an image elsewhere", "an image as text", "a file by id", "a part of another kind",
        "an inline image", "an inline file", "text", "labels and null", "messages of another type",
    ],
)  # fmt: skip
def test_only_known_fields_and_inline_media_may_reach_litellm(document, param):
    refused = litellm.unsupported_content(document, "chat")
    assert (refused.param if refused is not None else None) == param


def test_fields_of_chat_are_not_allowed_in_embeddings():
    assert litellm.unsupported_content({"input": "x", "dimensions": 3}, "embeddings") is None
    refused = litellm.unsupported_content({"input": "x", "temperature": 1}, "embeddings")
    assert refused is not None and refused.param == "temperature"


def test_the_call_has_neither_url_nor_headers_which_litellm_knows():
    call = litellm.build_call("chat", (b"{}",), SMALL, {"authorization": "Bearer caller"})
    assert (call.url, call.headers, call.body) == ("", {}, (b"{}",))


def test_the_effort_is_dropped_for_a_model_that_does_not_reason():
    document = {"messages": [], "reasoning_effort": "low"}
    assert litellm.adapted_body(document, "chat", SMALL)[0] == {"model": "sim-small", "messages": []}
    reasons = snapshot(small=", reasoning: true").deployments["small"]
    assert litellm.adapted_body(document, "chat", reasons)[0]["reasoning_effort"] == "low"
