"""Small books of routing: how busy deployments are, who plays which part, what kinds of work look like, cascades."""

import pytest

from gateway.routing.cascade import CascadeStats
from gateway.routing.classifiers.task_type import TaskTypeClassifier, match_task_type
from gateway.routing.deployment_load import DeploymentLoads
from gateway.routing.tool_result_labels import tool_success_share
from gateway.values.catalog import TaskType
from gateway.values.request import Message
from tests.routing.test_classifier import facts


def test_busy_and_failing_deployments_are_told_from_idle_ones():
    book = DeploymentLoads()
    assert book.load("a", 10, now=0.0).effective_ms == 0.0
    for _ in range(10):
        book.call_started("a")
        book.call_ended("a", 100.0, failed=False)
        book.call_started("b")
        book.call_ended("b", 100.0, failed=True)
    assert book.load("a", 10, now=0.0).effective_ms < book.load("b", 10, now=0.0).effective_ms
    book.call_started("a")
    assert book.load("a", 10, now=0.0).first_byte_ms == pytest.approx(200.0)


@pytest.mark.parametrize(
    "headers, tokens, tight",
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
def test_the_room_that_a_provider_tells(headers, tokens, tight):
    book = DeploymentLoads()
    book.record_rate_limit_headers("a", headers, now=100.0)
    assert book.load("a", tokens, now=101.0).rate_limited is tight
    assert not book.load("a", tokens, now=200.0).rate_limited


CODE, CHAT = TaskType(name="code", tools=frozenset({"bash"}), words=frozenset({"debug"})), TaskType(name="chat")


def test_kinds_of_work_are_learnt_from_what_is_declared():
    kinds, types = TaskTypeClassifier(), (CODE, CHAT)
    code, chat, between = [1.0, 0.2, 0.0], [-1.0, 0.1, 0.3], [0.0, 1.0, 0.0]

    def of(place, declared=None):
        found, confidence = match_task_type(facts("zzz"), types, declared)
        return kinds.classify(found, confidence, types, "org", lambda: place, declared)

    assert of(code) == (None, 0.0)
    for _ in range(25):
        of(code, "code")
        of(chat, "chat")
    assert of(code)[0] is CODE and of(chat)[0] is CHAT
    assert of(code)[1] > 0.9
    # As far from both: other. And another organisation knows nothing of it.
    assert of([0.0, 0.0, -1.0])[0] is None or of(between)[1] < 0.9
    found, _ = kinds.classify(None, 0.0, types, "another", lambda: code, None)
    assert found is None


def test_doubts_are_remembered_by_kind_and_complexity():
    book = CascadeStats()
    assert book.doubtful_share("code", 0.3, 0.2) == pytest.approx(0.2)
    for _ in range(40):
        book.record_verified("code", 0.3, doubtful=True)
    assert book.doubtful_share("code", 0.3, 0.2) > 0.8
    assert book.doubtful_share("code", 0.9, 0.2) == pytest.approx(0.2)
    assert book.doubtful_share("chat", 0.3, 0.2) == pytest.approx(0.2)


def tool(text: object, is_error: object = None) -> Message:
    return Message(role="tool", content=text, is_error=is_error)


@pytest.mark.parametrize(
    "messages, fared",
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
        ([tool("failed to"), Message(role="user", content="go on")], None),
    ],
)
def test_how_the_next_turn_tells_of_a_call(messages, fared):
    assert tool_success_share(messages) == fared
