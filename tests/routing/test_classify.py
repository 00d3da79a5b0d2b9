"""The transparent classifier on a labeled table."""

import json

import pytest

from gateway.dialects import chat
from gateway.routing import classify as classification_module
from gateway.routing.classifiers.task_type import TaskTypeClassifier
from gateway.routing.request_features import request_features
from gateway.values.plan import Classification
from tests.snapshots import snapshot

SNAPSHOT = snapshot()


def classify(features, *, declared: str | None = None) -> Classification:
    return classification_module.classify(features, SNAPSHOT, "default", TaskTypeClassifier(), declared=declared)


def features_of(content: object, *, history: list | None = None, **fields: object):
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
def test_the_default_ceiling_separates_easy_from_hard_requests(content, fields, small):
    assert (classify(features_of(content, **fields)).complexity <= 0.45) is small


def test_failed_tools_raise_complexity():
    failing = [
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "tool_call_id": "a", "content": "Error: command not found"},
    ] * 3
    assert classify(features_of("continue", history=failing)).complexity > classify(features_of("continue")).complexity


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
    ids=["by words", "by tools", "by other words", "declared", "unknown declaration is other", "no match is other"],
)
def test_task_types_are_declared_or_matched(content, fields, declared, task):
    assert classify(features_of(content, **fields), declared=declared).task_type == task


def test_the_reason_names_the_signals():
    assert "reasoning-words" in classify(features_of(HARD)).reason
    assert classify(features_of("hmm")).reason == "no signals"
