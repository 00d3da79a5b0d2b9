"""Origins of answers by id: provider, session and key. State machine, bounded.

No provider stores a translated answer, so the gateway keeps its conversation for callers that asked for storage
(`store`, on by default in Responses): in memory only, bounded in bytes and time, under the caller's own key. Callers
that share a provider account could read each other's answers there by id; the recorded key prevents that.
"""

from collections import OrderedDict

from ..values.base import Value
from .loop_guard import Conversation
from .session_index import Session

ORIGINS_MAX = 50_000
# Bounds of stored conversations: bytes of JSON in total and of each, and lifetime in seconds.
TRANSCRIPTS_BYTES_MAX = 64 * 1024 * 1024
TRANSCRIPT_BYTES_MAX = 4 * 1024 * 1024
TRANSCRIPT_SECONDS = 3600.0


class ResponseOrigin(Value, frozen=True, kw_only=True):
    """Where an answer came from.

    key: caller's key.
    provider: provider that answered.
    session: session of the request.
    conversation: loop guard state of the conversation.
    conversation_tokens: input and output tokens so far.
    answered_at: seconds since the epoch.
    transcript: the conversation as JSON where the gateway stores it, else None.
    """

    key: str
    provider: str
    session: Session
    conversation: Conversation
    conversation_tokens: int
    answered_at: float
    transcript: bytes | None = None


class ResponseOrigins:
    """Origins by answer id; the least recently used are dropped."""

    def __init__(self, capacity: int = ORIGINS_MAX, bytes_max: int = TRANSCRIPTS_BYTES_MAX) -> None:
        self._origins_max = capacity
        self._transcript_bytes_max = bytes_max
        self._origins_by_id: OrderedDict[str, ResponseOrigin] = OrderedDict()
        self._transcript_bytes: OrderedDict[str, int] = OrderedDict()
        self._transcript_bytes_total = 0

    def add(self, name: str, origin: ResponseOrigin) -> None:
        """Record the origin of an answer; one with an oversized transcript is not kept."""
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
        """The answer's origin; None if unknown or expired."""
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
