"""Counts what happened in one conversation, as short digests. State machine.

Bounded per kind; the oldest records are dropped.
"""

from enum import IntEnum
from typing import NamedTuple

# Records kept of each kind.
RECORDS_MAX = 64
# A record: 7 bytes of digest, 1 of count, 2 each of pause count and new-step count at the last occurrence.
_RECORD_BYTES, _DIGEST_BYTES, _TIMES_MAX, _STAMP_MAX = 12, 7, 255, 2**16 - 1


class OccurrenceKind(IntEnum):
    """What a record counts.

    call: a tool call.
    call_result: a call with its result.
    call_shape: a call with its digits masked.
    call_words: a call with the text beside it.
    tool_result: a tool and its result, whatever the arguments.
    turn_order: one turn following another.
    user_message: the user's text.
    request: a resent request, or a sub-agent's opening.
    """

    call = 0
    call_result = 1
    call_shape = 2
    call_words = 3
    tool_result = 4
    turn_order = 5
    user_message = 6
    request = 7


class Occurrences(NamedTuple):
    """Earlier occurrences of something.

    seen_count: how often it happened before.
    pause_count: pauses of the client up to the last time.
    new_count: steps with a new result up to the last time.
    """

    seen_count: int = 0
    pause_count: int = 0
    new_count: int = 0


NO_OCCURRENCES = Occurrences()


class ConversationMemory:
    """Occurrence counts of one conversation."""

    __slots__ = ("records",)

    def __init__(self) -> None:
        self.records: list[bytearray | None] = [None] * len(OccurrenceKind)

    def has_seen(self, kind: OccurrenceKind, digest: int) -> bool:
        """Whether this happened before."""
        records = self.records[kind]
        return records is not None and _find_record(records, _digest_bytes(digest)) >= 0

    def record(self, kind: OccurrenceKind, digest: int, pause_count: int, new_count: int) -> Occurrences:
        """Count one more occurrence, stamped with the counts; returns the earlier ones."""
        key = _digest_bytes(digest)
        stamp = (min(_STAMP_MAX, pause_count) | min(_STAMP_MAX, new_count) << 16).to_bytes(4, "little")
        records = self.records[kind]
        if records is None:
            self.records[kind] = bytearray(key + b"\x01" + stamp)
            return NO_OCCURRENCES
        offset = _find_record(records, key)
        if offset < 0:
            records += key + b"\x01" + stamp
            if len(records) > RECORDS_MAX * _RECORD_BYTES:
                del records[:_RECORD_BYTES]
            return NO_OCCURRENCES
        fields_offset = offset + _DIGEST_BYTES
        times, pauses_low, pauses_high, new_low, new_high = records[fields_offset : fields_offset + 5]
        records[fields_offset : fields_offset + 5] = bytes((min(_TIMES_MAX, times + 1),)) + stamp
        return Occurrences(times, pauses_low | pauses_high << 8, new_low | new_high << 8)

    @property
    def size_bytes(self) -> int:
        """Bytes of all records."""
        return sum(len(records) for records in self.records if records is not None)


def _digest_bytes(digest: int) -> bytes:
    return (digest & 0xFFFFFFFFFFFFFF).to_bytes(_DIGEST_BYTES, "little")


def _find_record(records: bytearray, key: bytes) -> int:
    offset = records.find(key)
    while offset > 0 and offset % _RECORD_BYTES:
        offset = records.find(key, offset + 1)
    return offset
