"""Each rule's published thresholds: the turn at which it stops, or never."""

import pytest

from gateway.offline.evaluation.decision_points import AgentTurn, TurnCall
from gateway.offline.evaluation.published_rules import (
    CallCap,
    ConsecutiveCalls,
    Crush,
    GeminiCli,
    Level,
    Librefang,
    MessageHash,
    OpenHands,
    is_error_result,
)

LONG = "I cannot reach the server, I will try once more now."


def acts(*names: str, result: str = "same") -> list[AgentTurn]:
    """One call per turn; a name with "=" has the result after it."""
    turns = []
    for name in names:
        action, _, given_result = name.partition("=")
        turns.append(AgentTurn(text="", calls=(TurnCall(name=action, arguments="{}", result=given_result or result),)))
    return turns


def says(*texts: str) -> list[AgentTurn]:
    return [AgentTurn(text=text) for text in texts]


def levels(rule, turns):
    return [rule.observe(turn) for turn in turns]


def first(rule, turns, level=Level.stop):
    """The number of turns until the level is reached, None if never."""
    return next((number for number, reached in enumerate(levels(rule, turns), 1) if reached >= level), None)


@pytest.mark.parametrize(
    ("rule", "turns", "stops_after"),
    [
        pytest.param(OpenHands, acts(*"AAAA"), 4, id="openhands stops at the fourth same action and observation"),
        pytest.param(OpenHands, acts("A", "A", "A", "B", "A"), None, id="openhands requires them in a row"),
        pytest.param(OpenHands, acts("A=1", "A=2", "A=3", "A=4"), None, id="openhands requires the same observation"),
        pytest.param(
            OpenHands, acts("A=Error: 1", "A=ValueError: 2", "A=Error: 3"), 3, id="openhands stops at the third error"
        ),
        pytest.param(OpenHands, acts(*"ABABAB"), 6, id="openhands stops at the third A B"),
        pytest.param(OpenHands, acts(*"ABCABCABC"), None, id="openhands detects no longer cycle"),
        pytest.param(OpenHands, says("hm", "hm", "hm"), 3, id="openhands stops a monologue"),
        pytest.param(
            OpenHands, says("hm", "hm") + acts("A") + says("hm"), None, id="openhands lets an observation break it"
        ),
        pytest.param(
            GeminiCli, acts("A=1", "A=2", "A=3", "A=4", "A=5"), 5, id="gemini counts five, whatever the results"
        ),
        pytest.param(GeminiCli, acts(*"AAAABAAAA"), None, id="gemini requires them in a row"),
        pytest.param(GeminiCli, acts(*"ABCDE" * 5), 25, id="gemini finds a cycle of five in five rounds"),
        pytest.param(GeminiCli, acts(*"ABCDEF" * 6), None, id="gemini detects no cycle of six"),
        pytest.param(Crush, acts(*"AABABABA"), None, id="crush allows five in ten"),
        pytest.param(Crush, acts(*"AABABABAA"), 9, id="crush stops at the sixth in ten"),
        pytest.param(Crush, acts(*"AAAAABBBBBBA"), 11, id="crush forgets after ten"),
        pytest.param(Librefang, acts("A=1", "A=2", "A=3", "A=4", "A=5"), 5, id="librefang blocks the fifth same call"),
        pytest.param(Librefang, acts(*"ABCADEAFGA"), 10, id="librefang blocks the call after three same results"),
        pytest.param(Librefang, acts("A=1", "B=1", "A=2", "B=2", "A=3", "B=3"), 6, id="librefang blocks the third A B"),
        pytest.param(MessageHash, acts("A=1", "B", "A=2", "C", "A=3"), 5, id="message hash stops at the third"),
        pytest.param(MessageHash, acts(*"ABCDEFABCDEGHIJKA"), None, id="message hash forgets after twelve"),
        pytest.param(MessageHash, says(LONG, LONG.upper(), f" {LONG}"), 3, id="message hash counts long texts"),
        pytest.param(MessageHash, says("Next.", "Next.", "Next."), None, id="message hash ignores short texts"),
        pytest.param(lambda: ConsecutiveCalls(4), acts("A=1", "A=2", "A=3", "A=4"), 4, id="roo refuses the fourth"),
        pytest.param(lambda: ConsecutiveCalls(4), acts(*"AAABAAA"), None, id="roo requires them in a row"),
        pytest.param(lambda: ConsecutiveCalls(3), acts(*"BAAA"), 4, id="opencode asks at the third"),
        pytest.param(lambda: CallCap(25), says(*map(str, range(30))), 25, id="a cap of 25 stops at 25"),
    ],
)
def test_a_rule_stops_at_its_published_threshold(rule, turns, stops_after):
    assert first(rule(), turns) == stops_after


def test_librefang_warns_at_the_second_same_result_and_the_third_same_call():
    assert first(Librefang(), acts("A", "B", "A"), Level.nudge) == 3
    assert first(Librefang(), acts("A=1", "A=2", "A=3"), Level.nudge) == 3


def test_librefang_gives_polls_three_times_as_many_calls():
    poll = [AgentTurn(text="", calls=(TurnCall("shell", '{"command":"job status"}', str(n)),)) for n in range(20)]
    assert first(Librefang(), poll, Level.nudge) == 9
    assert first(Librefang(), poll) == 15


def test_calls_of_one_turn_are_counted_one_by_one():
    four = (TurnCall("A", "{}", "same"),) * 4
    assert OpenHands().observe(AgentTurn(text="", calls=four)) == Level.stop
    assert ConsecutiveCalls(4).observe(AgentTurn(text="", calls=four[:3])) == Level.none


@pytest.mark.parametrize(
    ("result", "is_error"),
    [
        ("Error: 429", True), ("builtins.KeyError: 'x'", True), ("Traceback (most recent", True), ('{"error": 1}', True),
        ("no error", False), ("", False), (None, False), ("Errors are listed below", False),
    ],
)  # fmt: skip
def test_an_error_is_recognized_by_the_start_of_a_result(result, is_error):
    assert is_error_result(result) is is_error
