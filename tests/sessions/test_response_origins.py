"""Tests of response origins: bounded in number, bytes and time."""

from gateway.sessions.loop_guard import new_conversation
from gateway.sessions.response_origins import TRANSCRIPT_BYTES_MAX, TRANSCRIPT_SECONDS, ResponseOrigin, ResponseOrigins
from gateway.sessions.session_index import Session


def origin(transcript: bytes | None = None, at: float = 0.0) -> ResponseOrigin:
    session = Session(id="s", source="new", started_at=0.0)
    return ResponseOrigin(
        key="k",
        provider="p",
        session=session,
        conversation=new_conversation(),
        conversation_tokens=7,
        answered_at=at,
        transcript=transcript,
    )


def test_the_oldest_origins_are_dropped_first():
    origins = ResponseOrigins(capacity=2)
    for number in range(3):
        origins.add(str(number), origin())
    assert [origins.get(str(number), now=0.0) is not None for number in range(3)] == [False, True, True]


def test_transcripts_are_bounded_in_bytes_and_time():
    origins = ResponseOrigins(bytes_max=250)
    for number in range(3):
        origins.add(str(number), origin(b"x" * 100))
    assert [origins.get(str(number), now=0.0) is not None for number in range(3)] == [False, True, True]
    assert origins.get("2", now=TRANSCRIPT_SECONDS + 1) is None
    origins.add("huge", origin(b"x" * (TRANSCRIPT_BYTES_MAX + 1)))
    assert origins.get("huge", now=0.0) is None


def test_recording_an_answer_again_does_not_grow_the_total():
    origins = ResponseOrigins(bytes_max=250)
    for _ in range(10):
        origins.add("same", origin(b"x" * 100))
    origins.add("other", origin(b"x" * 100))
    assert len(origins) == 2
