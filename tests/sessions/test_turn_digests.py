"""Digests of turns: what counts as the same call, result and text."""

from typing import Any

import pytest

from gateway.sessions.turn_digests import TurnDigest, digest_call, digest_turns
from gateway.values.request import Message
from tests.sessions.agent_requests import chat_request, tool_call, tool_step


def turns(*messages: dict[str, Any], tooled: bool = True) -> list[TurnDigest]:
    return list(digest_turns(chat_request([{"role": "user", "content": "go"}, *messages]).messages, 1, tooled=tooled))


def test_a_turn_has_its_calls_with_their_results():
    (turn,) = turns(*tool_step(1, "a file"))
    (step,) = turn.steps
    assert (step.tool, step.failed, turn.user_digest, turn.has_answer) == ("bash", False, None, True)


@pytest.mark.parametrize(
    "first, second, same",
    [
        ('{"a": 1, "b": 2}', '{"b":2,"a":1}', True),
        ('{"a": 1}', '{"a": 2}', False),
        ("not json", "not json", True),
    ],
    ids=["spacing and key order", "another value", "no JSON"],
)
def test_calls_are_compared_by_their_parsed_arguments(first, second, same):
    one, other = digest_call("c1", "f", first), digest_call("c2", "f", second)
    assert (one.exact_digest == other.exact_digest) is same
    assert digest_call("c1", "g", first).exact_digest != one.exact_digest


def test_the_shape_of_a_call_ignores_its_digits():
    one, other = digest_call("c1", "f", '{"page": 1}'), digest_call("c2", "f", '{"page": 7}')
    assert one.shape_digest == other.shape_digest and one.exact_digest != other.exact_digest


@pytest.mark.parametrize(
    "first, second, same",
    [
        ("done in 0.31s", "done in 12.7s", True),
        ("request 5f2acba8-ac59 failed", "request 91e0b3c4-77aa failed", True),
        ('{"messageId": 17}', '{"messageId": 28}', True),
        ("page 1", "page 2", False),
    ],
    ids=["durations", "request ids", "named numbers", "other numbers count"],
)
def test_results_are_compared_without_their_volatile_parts(first, second, same):
    (one,), (other,) = turns(*tool_step(1, first)), turns(*tool_step(1, second))
    assert (one.steps[0].result_digest == other.steps[0].result_digest) is same


@pytest.mark.parametrize(
    "result, failed",
    [
        ("Error: no such file", True),
        ("bash: foo: command not found", True),
        ("Exit code: 2", True),
        ("0 errors, 3 warnings", False),
        ('{"error": null}', False),
        ("all good", False),
    ],
)
def test_a_result_that_reports_a_failure_is_one(result, failed):
    (turn,) = turns(*tool_step(1, result))
    assert turn.steps[0].failed is failed


def test_the_user_s_reply_ends_a_turn():
    (turn,) = turns({"role": "assistant", "content": "I am done."}, {"role": "user", "content": "Try page 2."})
    (other,) = turns({"role": "assistant", "content": "I am done."}, {"role": "user", "content": "Try page 3."})
    assert turn.user_digest == other.user_digest is not None and turn.user_digest_exact != other.user_digest_exact
    assert turn.user_chars == len("Try page 2.")


def test_our_own_stop_message_is_no_reply():
    stop = "This session repeats itself: 'bash' had the same outcome 8 times"
    (turn,) = turns({"role": "assistant", "content": "x"}, {"role": "user", "content": f"API error: {stop}"})
    assert turn.holds_refusal


def test_the_fenced_block_of_a_text_agent_is_its_call():
    answer = {"role": "assistant", "content": "Next.\n```\nls\n```"}
    (turn,) = turns(answer, {"role": "user", "content": "a.txt"}, tooled=False)
    assert len(turn.steps) == 1
    (other,) = turns({**answer, "content": "Again.\n```\nls\n```"}, {"role": "user", "content": "a.txt"}, tooled=False)
    assert other.steps[0].call_digest == turn.steps[0].call_digest


def test_pending_calls_get_the_first_results():
    pending = [digest_call(tool_call(1)["id"], "bash", '{"cmd": "ls"}')]
    messages = [Message("tool", "a file", tool_call_id=tool_call(1)["id"])]
    (turn,) = digest_turns(messages, 0, tooled=True, pending=pending)
    assert turn.steps[0].tool == "bash" and turn.has_answer, "the provider keeps the answer that made them"


def test_an_orphaned_result_is_no_answer():
    (turn,) = digest_turns([Message("tool", "a file", tool_call_id="unknown")], 0, tooled=True)
    assert not turn.has_answer
