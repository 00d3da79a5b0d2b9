"""What happened in one conversation, and how often: digests in a few bytes each, the oldest forgotten. A book."""

from enum import IntEnum
from typing import NamedTuple

# Of each kind so many things are remembered.
RECORDS_MAX = 64
# 7 bytes of a digest, one of how often it happened, two each of the pauses and the news by then.
_RECORD_BYTES, _DIGEST_BYTES, _TIMES_MAX, _STAMP_MAX = 12, 7, 255, 2**16 - 1


class OccurrenceKind(IntEnum):
    """What is remembered: a call, with its result, up to its digits, with what was said beside it; a result of a tool; a
    turn that followed on another; what the user said; a request that came again, a sub-agent's task."""

    call = 0
    call_result = 1
    call_shape = 2
    call_words = 3
    tool_result = 4
    turn_order = 5
    user_message = 6
    request = 7


class Occurrences(NamedTuple):
    """How often something happened before; how often its client had paused, and how much was new, by the last time."""

    seen_count: int = 0
    pause_count: int = 0
    new_count: int = 0


NO_OCCURRENCES = Occurrences()


class ConversationMemory:
    """The memory of one conversation."""

    __slots__ = ("records",)

    def __init__(self) -> None:
        self.records: list[bytearray | None] = [None] * len(OccurrenceKind)

    def has_seen(self, kind: OccurrenceKind, digest: int) -> bool:
        """Whether this happened before."""
        records = self.records[kind]
        return records is not None and _find_record(records, _digest_bytes(digest)) >= 0

    def record(self, kind: OccurrenceKind, digest: int, pauses: int, session_sync: int) -> Occurrences:
        """What was known of it; remembers that it happened once more, after so many pauses and so much news."""
        key = _digest_bytes(digest)
        stamp = (min(_STAMP_MAX, pauses) | min(_STAMP_MAX, session_sync) << 16).to_bytes(4, "little")
        records = self.records[kind]
        if records is None:
            self.records[kind] = bytearray(key + b"\x01" + stamp)
            return NO_OCCURRENCES
        place = _find_record(records, key)
        if place < 0:
            records += key + b"\x01" + stamp
            if len(records) > RECORDS_MAX * _RECORD_BYTES:
                del records[:_RECORD_BYTES]
            return NO_OCCURRENCES
        at = place + _DIGEST_BYTES
        times, low, high, more, most = records[at : at + 5]
        records[at : at + 5] = bytes((min(_TIMES_MAX, times + 1),)) + stamp
        return Occurrences(times, low | high << 8, more | most << 8)

    @property
    def size_bytes(self) -> int:
        """Bytes that are kept."""
        return sum(len(records) for records in self.records if records is not None)


def _digest_bytes(digest: int) -> bytes:
    return (digest & 0xFFFFFFFFFFFFFF).to_bytes(_DIGEST_BYTES, "little")


def _find_record(records: bytearray, key: bytes) -> int:
    place = records.find(key)
    while place > 0 and place % _RECORD_BYTES:
        place = records.find(key, place + 1)
    return place
