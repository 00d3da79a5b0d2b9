"""Features of a request: counts, flags and the newest text, each bounded."""

import json
from typing import Any

import pytest

from gateway.accounting import token_estimate
from gateway.dialects import PARSERS
from gateway.routing.request_features import request_features, text_of
from gateway.values.plan import RequestFeatures

USER = {"role": "user", "content": "debug the function"}


def features(*messages: dict[str, Any], dialect: str = "chat", **fields: Any) -> RequestFeatures:
    body = {"model": "auto", "messages": list(messages) or [USER], **fields}
    return request_features(PARSERS[dialect](json.dumps(body).encode()))


def test_the_newest_user_text_is_read():
    found = features({"role": "user", "content": "first"}, {"role": "assistant", "content": "x"}, USER)
    assert (found.newest_user_text, found.newest_chars, found.turns) == (USER["content"], 18, 3)
    assert found.words == {"debug", "the", "function"}


def test_after_many_steps_the_task_is_still_read():
    steps = [{"role": "tool", "tool_call_id": "c", "content": "x"}] * 100
    assert features({"role": "system", "content": "s"}, USER, *steps).newest_user_text == USER["content"]


def test_of_a_long_text_both_ends_are_read():
    text = "head " + "x" * 5000 + " tail"
    found = features({"role": "user", "content": text})
    assert found.newest_chars == 2001 and {"head", "tail"} <= found.words
    assert found.newest_user_text == text


def test_words_of_the_instructions_are_kept_apart_too():
    found = features({"role": "system", "content": "You review CODE."}, USER)
    assert found.system_words == {"you", "review", "code"} <= found.words


def test_an_agent_is_identified_by_its_instructions_and_tools():
    system = {"role": "system", "content": "You review."}
    tools = [{"type": "function", "function": {"name": "f"}}]
    fingerprints = {
        features(system, USER).agent_fingerprint,
        features(system, USER, tools=tools).agent_fingerprint,
        features(USER, tools=tools).agent_fingerprint,
    }
    assert len(fingerprints) == 3 and 0 not in fingerprints and features().agent_fingerprint == 0
    assert features(system, {"role": "user", "content": "other"}).agent_fingerprint in fingerprints


def test_inline_media_count_as_images_and_not_as_text():
    url = "data:image/png;base64," + "A" * 8000
    found = features({"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]})
    plain = features({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]})
    assert found.has_images and plain.has_images and not features().has_images
    assert token_estimate.IMAGE_TOKENS < found.input_tokens < token_estimate.IMAGE_TOKENS + 100
    assert found.input_tokens_max < token_estimate.IMAGE_TOKENS_MAX + 200


def test_tools_raise_the_upper_bound_by_their_preamble():
    tools = [{"type": "function", "function": {"name": "f"}}]
    found = features(tools=tools)
    body = json.dumps({"model": "auto", "messages": [USER], "tools": tools}).encode()
    assert found.input_tokens_max == len(body) + token_estimate.TOOL_PREAMBLE_TOKENS
    assert found.input_tokens <= found.input_tokens_max


@pytest.mark.parametrize(
    "results, errors",
    [
        (["12 passed"], 0),
        (["Error: no"], 1),
        (["not found", "x", "Traceback (most recent call last)"], 2),
        (["x" * 300 + " error"], 0),
        (["error"] + ["x"] * 8, 0),
        (["terrors"], 0),
    ],
    ids=["none", "one", "two", "only early in a result", "only in the newest", "whole words only"],
)
def test_failed_tool_calls_are_counted_in_the_newest_results(results, errors):
    messages = [{"role": "tool", "tool_call_id": "c", "content": result} for result in results]
    assert features(USER, *messages).tool_errors == errors


@pytest.mark.parametrize("text, share", [("", 0.0), ("{};=", 1.0), ("a = b;", 2 / 6)])
def test_the_share_of_code_is_that_of_its_punctuation(text, share):
    assert features({"role": "user", "content": text}).code_share == pytest.approx(share)


@pytest.mark.parametrize(
    "dialect, ttl, writes",
    [("messages", "1h", True), ("messages", "5m", False), ("chat", "1h", True)],
)
def test_a_one_hour_cache_may_be_written_where_it_is_requested(dialect, ttl, writes):
    part = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": ttl}}
    message = {"role": "user", "content": [part]}
    assert features(message, dialect=dialect, max_tokens=9).writes_long_cache is writes


def test_a_mark_in_plain_text_writes_no_cache_in_chat():
    text = json.dumps({"cache_control": {"ttl": "1h"}})
    assert not features({"role": "user", "content": text}).writes_long_cache


@pytest.mark.parametrize(
    "content, text",
    [("a", "a"), ([{"text": "a"}, {"type": "image"}, 7, {"text": "b"}, {"text": None}], "a b"), (None, ""), (7, "")],
)
def test_the_text_of_a_content_is_that_of_its_parts(content, text):
    assert text_of(content) == text


@pytest.mark.parametrize(
    "content",
    ["", None, [], [{"type": "text", "text": "hi"}], [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}],
     [1, "x", None], [{"type": "image_url", "image_url": 7}], "\u4f60\u597d" * 50],
)  # fmt: skip
def test_any_content_has_features(content):
    found = features({"role": "user", "content": content})
    assert 0 < found.input_tokens <= found.input_tokens_max


def test_a_large_inline_image_has_the_tokens_of_an_image():
    url = "data:image/png;base64," + "A" * 400_000
    found = features({"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]})
    assert found.has_images
    assert found.input_tokens < 2000
