"""Where things lie that callers refer to by id: which provider gave an answer, within which session. A book, bounded.

What a crossing answered lies with nobody: then we keep the conversation ourselves for as long as a caller may
continue it, because the caller asked to have it stored (`store`, which Responses has on by default). It is kept in
memory only, bounded in bytes and time, and under the caller's own key. Callers of one provider account could read each
other's answers there by their ids: those that we know of are told apart.
"""

from collections import OrderedDict

from ..values.base import Value
from .loop_guard import Conversation
from .session_index import Session

ORIGINS_MAX = 50_000
# Kept conversations, all together and each, in bytes of JSON; and for how long, in seconds.
TRANSCRIPTS_BYTES_MAX = 64 * 1024 * 1024
TRANSCRIPT_BYTES_MAX = 4 * 1024 * 1024
TRANSCRIPT_SECONDS = 3600.0


class Origin(Value, frozen=True, kw_only=True):
    """Where an answer to `key` came from. `talk` is what the loop guard knows of its conversation, `tokens` are the
    conversation's so far, input and output; `transcript` is the conversation as JSON, where it lies with us."""

    key: str
    provider: str
    session: Session
    talk: Conversation
    tokens: int
    at: float
    transcript: bytes | None = None


class OriginBook:
    """Origins by the answer's id; the least recently used are forgotten."""

    def __init__(self, capacity: int = ORIGINS_MAX, bytes_max: int = TRANSCRIPTS_BYTES_MAX) -> None:
        self._capacity = capacity
        self._bytes_max = bytes_max
        self._origins: OrderedDict[str, Origin] = OrderedDict()
        self._kept: OrderedDict[str, int] = OrderedDict()
        self._bytes = 0

    def remember(self, name: str, origin: Origin) -> None:
        """An answer with this id was given."""
        size = len(origin.transcript or b"")
        if size > TRANSCRIPT_BYTES_MAX:
            return
        self._forget(name)
        self._origins[name] = origin
        if size:
            self._kept[name] = size
            self._bytes += size
        while self._bytes > self._bytes_max:
            self._forget(next(iter(self._kept)))
        while len(self._origins) > self._capacity:
            self._forget(next(iter(self._origins)))

    def of(self, name: str, *, now: float) -> Origin | None:
        """Where it came from; None if nobody remembers, or no longer."""
        origin = self._origins.get(name)
        if origin is None:
            return None
        if origin.transcript is not None and now - origin.at > TRANSCRIPT_SECONDS:
            self._forget(name)
            return None
        self._origins.move_to_end(name)
        if name in self._kept:
            self._kept.move_to_end(name)
        return origin

    def __len__(self) -> int:
        return len(self._origins)

    def _forget(self, name: str) -> None:
        self._bytes -= self._kept.pop(name, 0)
        self._origins.pop(name, None)
