"""Where answers lie: bounded in number, bytes and time, and apart for each key."""

from gateway.sessions.loop_guard import begun
from gateway.sessions.response_origins import TRANSCRIPT_BYTES_MAX, TRANSCRIPT_SECONDS, Origin, OriginBook
from gateway.sessions.session_index import Session


def origin(transcript: bytes | None = None, at: float = 0.0) -> Origin:
    session = Session(id="s", source="new", started_at=0.0)
    return Origin(key="k", provider="p", session=session, talk=begun(), tokens=7, at=at, transcript=transcript)


def test_the_oldest_are_forgotten_first():
    book = OriginBook(capacity=2)
    for number in range(3):
        book.remember(str(number), origin())
    assert [book.of(str(number), now=0.0) is not None for number in range(3)] == [False, True, True]


def test_kept_conversations_are_bounded_in_bytes_and_time():
    book = OriginBook(bytes_max=250)
    for number in range(3):
        book.remember(str(number), origin(b"x" * 100))
    assert [book.of(str(number), now=0.0) is not None for number in range(3)] == [False, True, True]
    assert book.of("2", now=TRANSCRIPT_SECONDS + 1) is None
    book.remember("huge", origin(b"x" * (TRANSCRIPT_BYTES_MAX + 1)))
    assert book.of("huge", now=0.0) is None


def test_the_same_answer_again_takes_no_more_room():
    book = OriginBook(bytes_max=250)
    for _ in range(10):
        book.remember("same", origin(b"x" * 100))
    book.remember("other", origin(b"x" * 100))
    assert len(book) == 2
