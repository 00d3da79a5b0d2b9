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


class ResponseOrigin(Value, frozen=True, kw_only=True):
    """Where an answer to `key` came from. `talk` is what the loop guard knows of its conversation, `tokens` are the
    conversation's so far, input and output; `transcript` is the conversation as JSON, where it lies with us."""

    key: str
    provider: str
    session: Session
    conversation: Conversation
    conversation_tokens: int
    answered_at: float
    transcript: bytes | None = None


class ResponseOrigins:
    """Origins by the answer's id; the least recently used are forgotten."""

    def __init__(self, capacity: int = ORIGINS_MAX, bytes_max: int = TRANSCRIPTS_BYTES_MAX) -> None:
        self._origins_max = capacity
        self._transcript_bytes_max = bytes_max
        self._origins_by_id: OrderedDict[str, ResponseOrigin] = OrderedDict()
        self._transcript_bytes: OrderedDict[str, int] = OrderedDict()
        self._transcript_bytes_total = 0

    def add(self, name: str, origin: ResponseOrigin) -> None:
        """An answer with this id was given."""
        size = len(origin.transcript or b"")
        if size > TRANSCRIPT_BYTES_MAX:
            return
        self._evict(name)
        self._origins_by_id[name] = origin
        if size:
            self._transcript_bytes[name] = size
            self._transcript_bytes_total += size
        while self._transcript_bytes_total > self._transcript_bytes_max:
            self._evict(next(iter(self._transcript_bytes)))
        while len(self._origins_by_id) > self._origins_max:
            self._evict(next(iter(self._origins_by_id)))

    def get(self, name: str, *, now: float) -> ResponseOrigin | None:
        """Where it came from; None if nobody remembers, or no longer."""
        origin = self._origins_by_id.get(name)
        if origin is None:
            return None
        if origin.transcript is not None and now - origin.answered_at > TRANSCRIPT_SECONDS:
            self._evict(name)
            return None
        self._origins_by_id.move_to_end(name)
        if name in self._transcript_bytes:
            self._transcript_bytes.move_to_end(name)
        return origin

    def __len__(self) -> int:
        return len(self._origins_by_id)

    def _evict(self, name: str) -> None:
        self._transcript_bytes_total -= self._transcript_bytes.pop(name, 0)
        self._origins_by_id.pop(name, None)
