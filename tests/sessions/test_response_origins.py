"""Tests of response origins: bounded in number, bytes and time."""

from msgspec import structs

from gateway.sessions.loop_guard import new_conversation
from gateway.sessions.response_origins import (
    TRANSCRIPT_BYTES_MAX,
    TRANSCRIPT_SECONDS,
    UNKNOWN_SECONDS,
    ResponseOrigin,
    ResponseOrigins,
    adopted_origin,
)
from gateway.sessions.session_index import Session
from tests.entries import ENTRY


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


def test_an_unsettled_entry_is_taken_once():
    origins = ResponseOrigins()
    origins.add("a", structs.replace(origin(), unsettled=ENTRY))
    taken = origins.take_unsettled("a")
    assert taken is not None and taken.unsettled is ENTRY
    assert origins.take_unsettled("a") is None and origins.take_unsettled("b") is None
    kept = origins.get("a", now=0.0)
    assert kept is not None and kept.unsettled is None


def test_an_adopted_origin_is_the_published_one():
    original = structs.replace(
        origin(), deployment="frontier", route="auto", org="acme", output_tokens=3, unsettled=ENTRY
    )
    adopted = adopted_origin(original.to_stored(), original.session, original.conversation)
    assert adopted == structs.replace(original, is_adopted=True)


def test_an_id_that_is_known_nowhere_is_remembered_for_a_while():
    origins = ResponseOrigins()
    origins.mark_unknown("a", now=1.0)
    assert origins.is_unknown("a", now=1.0 + UNKNOWN_SECONDS / 2)
    assert not origins.is_unknown("a", now=1.0 + UNKNOWN_SECONDS) and not origins.is_unknown("b", now=1.0)
    origins.add("a", origin())
    assert origins.get("a", now=1.0) is not None
