"""The transparent classifier, on a labelled table; facts that it reads."""

import json

import pytest

from gateway.dialects import chat
from gateway.routing import classify as classify_module
from gateway.routing.classifiers.task_type import TaskTypeClassifier
from gateway.routing.request_features import request_features
from gateway.values.plan import Classification
from tests.snapshots import snapshot

WORLD = snapshot()


def classify(found, *, declared: str | None = None) -> Classification:
    return classify_module.classify(found, WORLD, "default", TaskTypeClassifier(), declared=declared)


def facts(content: object, *, history: list | None = None, **fields: object):
    messages = [*(history or []), {"role": "user", "content": content}]
    return request_features(chat.parse(json.dumps({"model": "auto", "messages": messages, **fields}).encode()))


CODE = "def f(x):\n    return {k: (v[0]; v[1]) for k in x}\n" * 20
HARD = "Prove the theorem and derive why the concurrency design can deadlock, then optimize the algorithm."


@pytest.mark.parametrize(
    "content, fields, small",
    [
        ("Hello!", {}, True),
        ("Summarize this meeting.", {}, True),
        ("What is the capital of France?", {}, True),
        (HARD, {}, False),
        (
            f"Debug this and explain why it fails:\n{CODE}",
            {"tools": [{"function": {"name": f"t{n}"}} for n in range(20)]},
            False,
        ),
        ("Plan. " + "x " * 60_000, {}, False),
    ],
    ids=["greeting", "summary", "question", "reasoning", "code with many tools", "very long"],
)
def test_easy_and_hard_requests_fall_on_their_side_of_the_default_ceiling(content, fields, small):
    assert (classify(facts(content, **fields)).complexity <= 0.45) is small


def test_failed_tools_make_a_request_harder():
    failing = [
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "tool_call_id": "a", "content": "Error: command not found"},
    ] * 3
    assert classify(facts("go on", history=failing)).complexity > classify(facts("go on")).complexity


@pytest.mark.parametrize(
    "content, fields, declared, task",
    [
        ("please debug my function", {}, None, "code"),
        ("anything", {"tools": [{"function": {"name": "bash"}}]}, None, "code"),
        ("summarize the meeting", {}, None, "summary"),
        ("summarize the meeting", {}, "code", "code"),
        ("summarize the meeting", {}, "nonsense", "other"),
        ("zzz", {}, None, "other"),
    ],
    ids=["by words", "by tools", "by more words", "as declared", "unknown declarations are other", "nothing matches"],
)
def test_the_task_type(content, fields, declared, task):
    assert classify(facts(content, **fields), declared=declared).task_type == task


def test_the_reason_names_what_moved_the_verdict():
    assert "reasoning-words" in classify(facts(HARD)).reason
    assert classify(facts("hmm")).reason == "plain"


@pytest.mark.parametrize(
    "content",
    ["", None, [], [{"type": "text", "text": "hi"}], [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}],
     [1, "x", None], [{"type": "image_url", "image_url": 7}], "\u4f60\u597d" * 50],
)  # fmt: skip
def test_any_content_has_facts(content):
    found = facts(content)
    assert 0 < found.input_tokens <= found.input_tokens_max


def test_inline_media_count_as_pictures_and_not_as_text():
    url = "data:image/png;base64," + "A" * 400_000
    found = facts([{"type": "image_url", "image_url": {"url": url}}])
    assert found.has_images
    assert found.input_tokens < 2000
