"""What happened in one conversation, and how often: digests in a few bytes each, the oldest forgotten. A book."""

from enum import IntEnum
from typing import NamedTuple

# Of each kind so many things are remembered.
RECORDS_MAX = 64
# 7 bytes of a digest, one of how often it happened, two each of the pauses and the news by then.
_WIDTH, _DIGEST, _TIMES_MAX, _STAMP_MAX = 12, 7, 255, 2**16 - 1


class Kind(IntEnum):
    """What is remembered: a call, with its result, up to its digits, with what was said beside it; a result of a tool; a
    turn that followed on another; what the user said; a request that came again, a sub-agent's task."""

    call = 0
    pair = 1
    shape = 2
    words = 3
    outcome = 4
    order = 5
    told = 6
    sent = 7


class Seen(NamedTuple):
    """How often something happened before; how often its client had paused, and how much was new, by the last time."""

    times: int = 0
    pauses: int = 0
    news: int = 0


NEVER = Seen()


class Memory:
    """The memory of one conversation."""

    __slots__ = ("records",)

    def __init__(self) -> None:
        self.records: list[bytearray | None] = [None] * len(Kind)

    def knows(self, kind: Kind, digest: int) -> bool:
        """Whether this happened before."""
        records = self.records[kind]
        return records is not None and _place(records, _key(digest)) >= 0

    def happened(self, kind: Kind, digest: int, pauses: int, news: int) -> Seen:
        """What was known of it; remembers that it happened once more, after so many pauses and so much news."""
        key = _key(digest)
        stamp = (min(_STAMP_MAX, pauses) | min(_STAMP_MAX, news) << 16).to_bytes(4, "little")
        records = self.records[kind]
        if records is None:
            self.records[kind] = bytearray(key + b"\x01" + stamp)
            return NEVER
        place = _place(records, key)
        if place < 0:
            records += key + b"\x01" + stamp
            if len(records) > RECORDS_MAX * _WIDTH:
                del records[:_WIDTH]
            return NEVER
        at = place + _DIGEST
        times, low, high, more, most = records[at : at + 5]
        records[at : at + 5] = bytes((min(_TIMES_MAX, times + 1),)) + stamp
        return Seen(times, low | high << 8, more | most << 8)

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return sum(len(records) for records in self.records if records is not None)


def _key(digest: int) -> bytes:
    return (digest & 0xFFFFFFFFFFFFFF).to_bytes(_DIGEST, "little")


def _place(records: bytearray, key: bytes) -> int:
    place = records.find(key)
    while place > 0 and place % _WIDTH:
        place = records.find(key, place + 1)
    return place
