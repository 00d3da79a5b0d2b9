"""Occurrence counts of a conversation, bounded per kind."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gateway.sessions.conversation_memory import (
    NO_OCCURRENCES,
    RECORDS_MAX,
    ConversationMemory,
    OccurrenceKind,
    Occurrences,
)


def test_an_occurrence_is_counted_with_the_stamps_of_the_last_time():
    memory = ConversationMemory()
    assert memory.record(OccurrenceKind.call, 7, 1, 300) == NO_OCCURRENCES
    assert memory.record(OccurrenceKind.call, 7, 2, 301) == Occurrences(1, 1, 300)
    assert memory.record(OccurrenceKind.call, 7, 3, 302) == Occurrences(2, 2, 301)
    assert memory.has_seen(OccurrenceKind.call, 7) and not memory.has_seen(OccurrenceKind.call, 8)


def test_kinds_are_counted_apart():
    memory = ConversationMemory()
    memory.record(OccurrenceKind.call, 7, 0, 0)
    assert not memory.has_seen(OccurrenceKind.request, 7)
    assert memory.record(OccurrenceKind.request, 7, 0, 0) == NO_OCCURRENCES


def test_counts_and_stamps_saturate():
    memory = ConversationMemory()
    for _ in range(400):
        memory.record(OccurrenceKind.call, -1, 10**6, 10**6)
    assert memory.record(OccurrenceKind.call, -1, 0, 0) == Occurrences(255, 65_535, 65_535)


def test_the_oldest_records_are_dropped():
    memory = ConversationMemory()
    for digest in range(RECORDS_MAX + 10):
        memory.record(OccurrenceKind.call, digest, 0, 0)
    assert not memory.has_seen(OccurrenceKind.call, 9) and memory.has_seen(OccurrenceKind.call, 10)
    assert memory.size_bytes == RECORDS_MAX * 12


def test_a_digest_that_spans_two_fields_of_a_record_was_not_seen():
    memory = ConversationMemory()
    memory.record(OccurrenceKind.call, int.from_bytes(bytes((1, 2, 3, 4, 5, 6, 7)), "little"), 0, 0)
    # The last six bytes of that digest and its count.
    spanning = int.from_bytes(bytes((2, 3, 4, 5, 6, 7, 1)), "little")
    assert not memory.has_seen(OccurrenceKind.call, spanning)
    assert memory.record(OccurrenceKind.call, spanning, 0, 0) == NO_OCCURRENCES
    assert memory.record(OccurrenceKind.call, spanning, 0, 0).seen_count == 1


@given(digests=st.lists(st.integers(-(2**63), 2**63).map(lambda n: n % 97 * 257**3), max_size=200))
def test_counts_are_those_of_a_counter_however_digests_overlap(digests):
    memory, counter = ConversationMemory(), Counter[int]()
    for digest in digests:
        if len(counter) == RECORDS_MAX and digest not in counter:
            break
        assert memory.record(OccurrenceKind.call, digest, 0, 0).seen_count == counter[digest]
        counter[digest] += 1
