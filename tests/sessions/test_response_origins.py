"""Where answers lie: bounded in number, bytes and time, and apart for each key."""

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


def test_the_oldest_are_forgotten_first():
    book = ResponseOrigins(capacity=2)
    for number in range(3):
        book.add(str(number), origin())
    assert [book.get(str(number), now=0.0) is not None for number in range(3)] == [False, True, True]


def test_kept_conversations_are_bounded_in_bytes_and_time():
    book = ResponseOrigins(bytes_max=250)
    for number in range(3):
        book.add(str(number), origin(b"x" * 100))
    assert [book.get(str(number), now=0.0) is not None for number in range(3)] == [False, True, True]
    assert book.get("2", now=TRANSCRIPT_SECONDS + 1) is None
    book.add("huge", origin(b"x" * (TRANSCRIPT_BYTES_MAX + 1)))
    assert book.get("huge", now=0.0) is None


def test_the_same_answer_again_takes_no_more_room():
    book = ResponseOrigins(bytes_max=250)
    for _ in range(10):
        book.add("same", origin(b"x" * 100))
    book.add("other", origin(b"x" * 100))
    assert len(book) == 2
