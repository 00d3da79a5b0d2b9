"""The loop ladder: one step at a time, stops and their end."""

from typing import Any

import msgspec
import pytest

from gateway.sessions import ladder
from gateway.sessions.ladder import LoopState
from gateway.sessions.session_index import Session
from gateway.values.session import LoopThresholds
from tests.sessions.agent_requests import NOW, LoopConversation, chat_request, opening_messages

LIMITS = LoopThresholds(warn=1.0, nudge=2.0, hold=None, stop=4.0)


def session(**fields: Any) -> Session:
    return Session(id="s", source="header", started_at=NOW, **fields)


def state(score: float, **fields: Any) -> LoopState:
    return msgspec.structs.replace(ladder.no_loop_state(), score=score, **fields)


def steps(target: Session, scores: list[float], limits: LoopThresholds = LIMITS) -> list[str]:
    """The step of each score; "" where none was due."""
    taken = [ladder.take_due_step(target, state(score), limits) for score in scores]
    return [loop_state.step if loop_state.step_is_due else "" for loop_state in taken]


@pytest.mark.parametrize(
    "scores, expected",
    [
        ([0.0, 0.9], ["", ""]),
        ([1.0, 1.0], ["warn", ""]),
        ([9.0, 9.0, 9.0, 9.0], ["warn", "nudge", "stop", ""]),
        ([2.0, 0.5, 2.0], ["warn", "", "nudge"]),
    ],
    ids=["below the first", "once", "the lowest first", "remembered"],
)
def test_one_step_is_taken_at_a_time(scores, expected):
    assert steps(session(), scores) == expected


def test_an_exempt_session_takes_no_step():
    assert steps(session(is_exempt=True), [9.0]) == [""]


def test_in_shadow_mode_steps_are_observed_and_do_not_stop():
    target, shadow = session(), LoopThresholds(warn=1.0, nudge=None, stop=2.0, enforce=False)
    first, second = (ladder.take_due_step(target, state(9.0), shadow) for _ in range(2))
    assert (first.step, second.step, second.step_is_due) == ("warn", "stop", True)
    assert not second.is_enforced and not second.stops_session
    assert (target.steps_taken, target.steps_observed) == (frozenset[str](), frozenset({"warn", "stop"}))
    assert ladder.take_due_step(target, state(9.0), shadow).step == "stop", "it stays reported"


@pytest.mark.parametrize("step, stops", [("hold", True), ("stop", True), ("nudge", False)])
def test_only_hold_and_stop_end_a_session(step, stops):
    assert state(9.0, step=step, step_is_due=True, is_enforced=True).stops_session is stops


def test_the_holdout_is_a_stable_share_of_sessions():
    ids = [Session(id=f"s{number}", source="", started_at=NOW) for number in range(2000)]
    held_out = sum(ladder.in_holdout(target, 0.2) for target in ids)
    assert 320 <= held_out <= 480
    assert not any(ladder.in_holdout(target, 0.0) for target in ids) and all(
        ladder.in_holdout(target, 1.0) for target in ids
    )
    assert [ladder.in_holdout(target, 0.2) for target in ids[:9]] == [
        ladder.in_holdout(target, 0.2) for target in ids[:9]
    ]


def looping() -> tuple[LoopConversation, LoopState]:
    conversation = LoopConversation()
    for _ in range(9):
        loop_state = conversation.tool_turn("same")
    return conversation, loop_state


@pytest.mark.parametrize(
    "step, code, words",
    [("stop", "loop_stopped", "Try another approach"), ("hold", "loop_approval_required", "A person has to approve")],
)
def test_a_stop_names_what_repeats(step, code, words):
    conversation, loop_state = looping()
    stop = ladder.stop_session(
        conversation.session, msgspec.structs.replace(loop_state, step=step), id="x", at=conversation.now
    )
    assert stop.code == code and stop.message.startswith("This session repeats itself: 'bash' had the same outcome")
    assert words in stop.message and conversation.session.stop is stop and conversation.session.was_stopped
    assert stop.details["tool"] == "bash" and stop.details["count"] >= 8 and stop.details["session"] == "s"


def test_the_evidence_of_a_session_that_is_not_repeating_is_empty():
    evidence = ladder.evidence(session(), ladder.no_loop_state().conversation, 0.0, NOW)
    assert (evidence["tool"], evidence["count"], evidence["since_seconds"], evidence["cost_usd"]) == ("", 0, 0, 0.0)


def test_a_refusal_links_to_the_approval():
    stop = ladder.kill_session(session(), id="x", at=NOW, note="enough")
    assert stop.message == "Session ended by an operator: enough."
    plain = ladder.stop_refusal(stop, "", None)
    assert (plain.code, plain.message, "resume" in plain.details) == ("session_killed", stop.message, False)
    linked = ladder.stop_refusal(stop, "http://x/approve", 403)
    assert linked.message.endswith("To resume it: http://x/approve") and linked.status == 403
    assert linked.details["resume"] == "http://x/approve"


@pytest.mark.parametrize(
    "idle, has_new_input, lifted",
    [
        (0.0, False, False),
        (0.0, True, True),
        (ladder.STOP_EXPIRES_SECONDS, False, False),
        (ladder.STOP_EXPIRES_SECONDS + 1, False, True),
    ],
)
def test_a_stop_is_lifted_by_new_input_or_a_pause(idle, has_new_input, lifted):
    conversation, loop_state = looping()
    stopped = conversation.session
    ladder.stop_session(stopped, loop_state, id="x", at=NOW)
    stopped.refused_at = NOW
    fresh = msgspec.structs.replace(loop_state, has_new_user_input=has_new_input)
    assert ladder.lift_if_over(stopped, fresh, now=NOW + idle) is lifted
    assert (stopped.stop is None) is lifted
    assert loop_state.conversation.score == 0 or not lifted


def test_a_killed_session_stays_stopped():
    killed = session()
    ladder.kill_session(killed, id="x", at=NOW, note="")
    assert not ladder.lift_if_over(killed, state(0.0, has_new_user_input=True), now=NOW + 1e6)
    assert ladder.lift_if_over(session(), state(0.0), now=NOW)


def test_a_resumed_session_may_be_nudged_no_second_time_but_stopped_again():
    resumed = session(steps_taken=frozenset({"warn", "nudge", "answer", "hold", "stop"}))
    ladder.resume_session(resumed, note="look at the log")
    assert (resumed.steps_taken, resumed.resume_note, resumed.resume_count) == (
        frozenset({"warn", "nudge"}),
        "look at the log",
        1,
    )


def test_a_nudge_names_the_tool():
    _, loop_state = looping()
    assert ladder.nudge_text(loop_state.repeating).startswith("[Gateway note: `bash` has now had the same outcome ")
    assert "the last steps changed nothing" in ladder.nudge_text(ladder.no_loop_state().conversation)


def test_a_conversation_stored_by_the_provider_is_found_by_its_name():
    stored = session()
    conversation = ladder.provider_conversation(stored, "conv_1")
    assert ladder.provider_conversation(stored, "conv_1") is conversation
    assert ladder.provider_conversation(stored, "conv_2") is not conversation


def test_a_sub_agent_s_answer_before_any_spawn_is_ignored():
    head = session()
    ladder.record_sub_agent_answer(head, now=NOW)
    assert head.conversations_by_key == {}
    ladder.record_spawn(head, chat_request(opening_messages()), now=NOW)
    ladder.record_sub_agent_answer(head, now=NOW + 1)
    (spawns,) = head.conversations_by_key.values()
    assert spawns.answered_at == NOW + 1
