"""Digests that identify a history and its answers."""

import pytest

from gateway.dialects.answer_fingerprint import AnswerFingerprint
from gateway.sessions.lineage import ANSWERS_TRIED, History, answer_digests, answers_match, digest_texts
from tests.sessions.agent_requests import chat_request, opening_messages, tool_step

CALL = AnswerFingerprint("", "call_00000001", 'bash{"cmd":"ls"}')
TEXT = AnswerFingerprint("I will look at the parser first.")


def history(*steps: int, key: str = "k", instructions: str = "You are an agent.") -> History:
    messages = opening_messages()
    messages[0]["content"] = instructions
    for step in steps:
        messages += tool_step(step, f"result {step}")
    return History(key, chat_request(messages))


def test_the_earlier_requests_of_a_history_have_their_own_digests():
    assert history().is_opening and not history(1).is_opening
    digests = [digest for digest, _ in history(1, 2, 3).earlier_requests()]
    assert digests == [history(1, 2).digest, history(1).digest, history().digest]


def test_only_the_newest_answers_are_tried():
    assert len(list(history(*range(20)).earlier_requests())) == ANSWERS_TRIED


def test_a_history_longer_than_the_window_still_finds_its_predecessor():
    steps = range(60)
    (digest, _), *_ = history(*steps).earlier_requests()
    assert digest == history(*steps[:-1]).digest


def test_instructions_may_change_and_keys_may_not():
    assert history(1, instructions="It is Tuesday.").digest == history(1).digest
    assert history(1, key="other").digest != history(1).digest


@pytest.mark.parametrize(
    "answer, distinctive",
    [
        (CALL, True),
        (AnswerFingerprint("", "c1", "f{}"), False),
        (AnswerFingerprint("x" * 40), True),
        (AnswerFingerprint("x" * 39), False),
        (AnswerFingerprint("", "c1", "x" * 40), True),
        (AnswerFingerprint(), False),
    ],
    ids=["a call's id", "a counter", "a long text", "a short text", "a long call", "nothing"],
)
def test_an_answer_is_identified_only_if_it_is_distinctive(answer, distinctive):
    digests = answer_digests("k", answer)
    assert (len(digests) == 1) is distinctive
    assert not distinctive or digests != answer_digests("other", answer)


@pytest.mark.parametrize(
    "recorded, sent, matches",
    [
        (CALL, CALL, True),
        (CALL, AnswerFingerprint("Calling tools: call_00000001"), True),
        (CALL, AnswerFingerprint("", "call_00000002", CALL.call), False),
        (TEXT, AnswerFingerprint(TEXT.text + " Then we see."), True),
        (TEXT, AnswerFingerprint("I will run the tests first."), False),
        (TEXT, AnswerFingerprint(), False),
        (AnswerFingerprint("<think>hm</think>Hi"), AnswerFingerprint("Hi"), None),
        (AnswerFingerprint(), TEXT, None),
    ],
    ids=[
        "the same call", "a call repeated as text", "another call", "a longer text", "another text", "no text",
        "visible reasoning is dropped by agents", "nothing was recorded",
    ],
)  # fmt: skip
def test_a_recorded_answer_is_or_is_not_that_of_a_history(recorded, sent, matches):
    assert answers_match(recorded, sent) is matches


def test_the_boundaries_of_texts_are_part_of_their_digest():
    assert digest_texts("ab", "c") != digest_texts("a", "bc") != digest_texts("abc")
    assert digest_texts("a\0b") != digest_texts("a", "b")
