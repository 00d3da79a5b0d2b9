"""Generated long sessions: real steps, reproducible, valid on the wire."""

import pytest

from gateway.offline.evaluation.decision_points import decision_points
from gateway.offline.evaluation.long_sessions import generate_sessions
from gateway.offline.evaluation.session_material import gather_material
from tests.offline.evaluation.trajectories import OPENING, recording, step

PAGE = "A page of a real document, long enough to be read. " * 5


def healthy() -> list:
    """A few realistic sessions: tools, pages, a confirmation, several user turns."""
    sessions = []
    for number in range(6):
        steps = [*step(1, "read", f"{PAGE}{number}", path=f"f{number}"), *step(2, "send", "None", to=f"p{number}")]
        question = {"role": "user", "content": f"And number {number}?"}
        done = {"role": "assistant", "content": "Done."}
        sessions.append(recording([*OPENING, *steps, done], id=f"e/{number}", task=f"t{number}"))
        conversation = [*OPENING, *steps, done, question, done, question, done]
        sessions.append(recording(conversation, id=f"t/{number}", task=f"t{number}", source="support"))
    return sessions


KINDS = ["refactoring", "crawl", "polls", "batch edits", "support chats", "errands", "scrolls", "mixed"]


def test_kinds_come_in_turn_and_are_healthy_and_synthetic():
    sessions = list(generate_sessions(healthy(), 16, seed=3))
    assert [session.source for session in sessions] == [f"long: {kind}" for kind in KINDS] * 2
    assert all(session.label == "healthy" and session.synthetic for session in sessions)


def test_the_same_seed_gives_the_same_sessions_and_another_does_not():
    first, again, other = (
        [session.messages for session in generate_sessions(healthy(), 8, seed=seed)] for seed in (3, 3, 4)
    )
    assert first == again
    assert first != other


def test_sessions_are_long_and_contain_real_texts():
    for session in generate_sessions(healthy(), 8, seed=5):
        # This small material has few conversations.
        assert len(session.answer_positions) >= (
            10 if session.source in ("long: support chats", "long: errands") else 100
        )
        assert len(session.answer_positions) < 700
        if session.source not in ("long: batch edits",):
            assert any(PAGE in str(message.get("content")) for message in session.messages), session.source


def test_every_result_answers_a_call():
    for session in generate_sessions(healthy(), 8, seed=5):
        for moment in decision_points(session, 5.0):
            assert moment.last_turn is None or all(call.result is not None for call in moment.last_turn.calls)


def test_polls_are_half_a_minute_to_five_minutes_apart():
    (session,) = [
        generated for generated in generate_sessions(healthy(), 8, seed=5) if generated.source == "long: polls"
    ]
    gaps = [message["_gap"] for message in session.messages if "_gap" in message]
    assert len(gaps) > 50
    assert all(30 <= gap <= 300 for gap in gaps)


def test_too_little_material_is_refused():
    with pytest.raises(ValueError, match="too few healthy sessions"):
        gather_material([recording(OPENING)])
