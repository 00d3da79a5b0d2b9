"""Deployment load, learned task types, cascade statistics, tool result labels."""

from typing import Any

import pytest

from gateway.routing.cascade import CascadeStats
from gateway.routing.classifiers.task_type import TaskTypeClassifier, match_task_type
from gateway.routing.deployment_load import DeploymentLoads
from gateway.routing.tool_result_labels import tool_success_share
from gateway.values.catalog import TaskType
from gateway.values.request import Message
from tests.routing.test_classify import features_of


def test_open_calls_and_failures_raise_the_load():
    loads = DeploymentLoads()
    assert loads.load("a", 10, now=0.0).effective_ms == 0.0
    for _ in range(10):
        loads.call_started("a")
        loads.call_ended("a", 100.0, failed=False)
        loads.call_started("b")
        loads.call_ended("b", 100.0, failed=True)
    assert loads.load("a", 10, now=0.0).effective_ms < loads.load("b", 10, now=0.0).effective_ms
    loads.call_started("a")
    assert loads.load("a", 10, now=0.0).first_byte_ms == pytest.approx(200.0)


@pytest.mark.parametrize(
    "headers, tokens, limited",
    [
        ({}, 10, False),
        ({"x-ratelimit-remaining-requests": "0"}, 10, True),
        ({"x-ratelimit-remaining-requests": "50"}, 10, False),
        ({"x-ratelimit-remaining-tokens": "900"}, 1000, True),
        ({"anthropic-ratelimit-input-tokens-remaining": "900"}, 1000, True),
        ({"anthropic-ratelimit-tokens-remaining": "9000"}, 1000, False),
        ({"x-ratelimit-remaining-requests": "nonsense"}, 10, False),
        ({"x-ratelimit-remaining-requests": "9" * 40}, 10, False),
    ],
)
def test_rate_limit_headers_mark_a_deployment_until_they_expire(headers, tokens, limited):
    loads = DeploymentLoads()
    loads.record_rate_limit_headers("a", headers, now=100.0)
    assert loads.load("a", tokens, now=101.0).rate_limited is limited
    assert not loads.load("a", tokens, now=200.0).rate_limited


CODE, CHAT = TaskType(name="code", tools=frozenset({"bash"}), words=frozenset({"debug"})), TaskType(name="chat")


def test_task_types_are_learned_from_declared_ones():
    classifier, types = TaskTypeClassifier(), (CODE, CHAT)
    code, chat, between = [1.0, 0.2, 0.0], [-1.0, 0.1, 0.3], [0.0, 1.0, 0.0]

    def classify(vector, declared=None):
        matched, confidence = match_task_type(features_of("zzz"), types, declared)
        return classifier.classify(matched, confidence, types, "org", lambda: vector, declared)

    assert classify(code) == (None, 0.0)
    for _ in range(25):
        classify(code, "code")
        classify(chat, "chat")
    assert classify(code)[0] is CODE and classify(chat)[0] is CHAT
    assert classify(code)[1] > 0.9
    # Equally far from both is "other"; organizations do not share what they learned.
    assert classify([0.0, 0.0, -1.0])[0] is None or classify(between)[1] < 0.9
    matched, _ = classifier.classify(None, 0.0, types, "another", lambda: code, None)
    assert matched is None


def test_the_share_of_doubtful_answers_is_learned_by_task_type_and_complexity():
    stats = CascadeStats()
    assert stats.doubtful_share("code", 0.3, 0.2) == pytest.approx(0.2)
    for _ in range(40):
        stats.record_verified("code", 0.3, doubtful=True)
    assert stats.doubtful_share("code", 0.3, 0.2) > 0.8
    assert stats.doubtful_share("code", 0.9, 0.2) == pytest.approx(0.2)
    assert stats.doubtful_share("chat", 0.3, 0.2) == pytest.approx(0.2)


def tool(text: Any, is_error: object = None) -> Message:
    return Message(role="tool", content=text, is_error=is_error)


@pytest.mark.parametrize(
    "messages, success",
    [
        ([Message(role="user", content="hi")], None),
        ([tool("12 passed in 3 s")], 1.0),
        ([tool("2 failed, 12 passed")], 0.0),
        ([tool("0 errors, 3 passed")], 1.0),
        ([tool("done", True)], 0.0),
        ([tool("a file"), tool("bash: x: command not found")], 0.5),
        ([tool("")], 0.5),
        ([tool([{"type": "text", "text": "Traceback (most recent call last)"}])], 0.0),
        ([tool([1, None])], 0.5),
        ([tool("failed to"), Message(role="user", content="continue")], None),
    ],
)
def test_tool_results_label_the_calls_before_them(messages, success):
    assert tool_success_share(messages) == success
