"""Origins of answers and other stored objects by id: provider, session and key. State machine, bounded.

No provider stores a translated answer, so the gateway keeps its conversation for callers that asked for storage
(`store`, on by default in Responses): in memory only, bounded in bytes and time, under the caller's own key. Callers
that share a provider account could read each other's answers there by id; the recorded key prevents that.
"""

from collections import OrderedDict

from msgspec import structs

from ..dialects.stored_objects import ResponseEnd
from ..values.base import Value
from ..values.ledger_entry import LedgerEntry
from ..values.stored_object import StoredObject
from .loop_guard import Conversation
from .session_index import Session

ORIGINS_MAX = 50_000
# Bounds of stored conversations: bytes of JSON in total and of each, and lifetime in seconds.
TRANSCRIPTS_BYTES_MAX = 64 * 1024 * 1024
TRANSCRIPT_BYTES_MAX = 4 * 1024 * 1024
TRANSCRIPT_SECONDS = 3600.0
# Ids that were looked for everywhere and not found: how many are remembered, and for how many seconds. A history repeats
# them with every request.
_UNKNOWN_MAX, UNKNOWN_SECONDS = 10_000, 30.0
# Ends of responses that are remembered until their own stream has ended, too.
_EARLY_ENDS_MAX = 100


class ResponseOrigin(Value, frozen=True, kw_only=True):
    """Where an answer or another object came from.

    key: caller's key.
    provider: provider that answered.
    session: session of the request.
    conversation: loop guard state of the conversation.
    conversation_tokens: input and output tokens so far.
    answered_at: seconds since the epoch.
    transcript: the conversation as JSON where the gateway stores it, else None.
    deployment, route: which answered; "" where unknown.
    org: the tenant.
    output_tokens: tokens of the answer itself.
    unsettled: the answer's ledger entry while the provider may still report its usage, else None.
    is_open: the call that started the response has not ended.
    is_adopted: from another replica, or from before the restart: `session` does not count the answer.
    """

    key: str
    provider: str
    session: Session
    conversation: Conversation
    conversation_tokens: int
    answered_at: float
    transcript: bytes | None = None
    deployment: str = ""
    route: str = ""
    org: str = "default"
    output_tokens: int = 0
    unsettled: LedgerEntry | None = None
    is_open: bool = False
    is_adopted: bool = False

    def to_stored(self) -> StoredObject:
        """What other replicas need to know of it."""
        return StoredObject(
            org=self.org,
            key=self.key,
            provider=self.provider,
            deployment=self.deployment,
            route=self.route,
            session=self.session.id,
            session_source=self.session.source,
            root=self.session.root,
            created_at=self.answered_at,
            conversation_tokens=self.conversation_tokens,
            output_tokens=self.output_tokens,
            unsettled=self.unsettled,
        )


def adopted_origin(stored: StoredObject, session: Session, conversation: Conversation) -> ResponseOrigin:
    """The origin of an object that another replica or an earlier process recorded."""
    return ResponseOrigin(
        key=stored.key,
        provider=stored.provider,
        session=session,
        conversation=conversation,
        conversation_tokens=stored.conversation_tokens,
        answered_at=stored.created_at,
        deployment=stored.deployment,
        route=stored.route,
        org=stored.org,
        output_tokens=stored.output_tokens,
        unsettled=stored.unsettled,
        is_adopted=True,
    )


class ResponseOrigins:
    """Origins by answer id; the least recently used are dropped."""

    def __init__(self, capacity: int = ORIGINS_MAX, bytes_max: int = TRANSCRIPTS_BYTES_MAX) -> None:
        self._origins_max = capacity
        self._transcript_bytes_max = bytes_max
        self._origins_by_id: OrderedDict[str, ResponseOrigin] = OrderedDict()
        self._transcript_bytes: OrderedDict[str, int] = OrderedDict()
        self._transcript_bytes_total = 0
        self._unknown_until: OrderedDict[str, float] = OrderedDict()
        self._early_ends: OrderedDict[str, ResponseEnd] = OrderedDict()

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

    def mark_unknown(self, name: str, *, now: float) -> None:
        """Remember for a while that an id is known nowhere."""
        self._unknown_until[name] = now + UNKNOWN_SECONDS
        if len(self._unknown_until) > _UNKNOWN_MAX:
            self._unknown_until.popitem(last=False)

    def is_unknown(self, name: str, *, now: float) -> bool:
        """Whether the id was known nowhere a while ago."""
        return now < self._unknown_until.get(name, 0.0)

    def add_early_end(self, end: ResponseEnd) -> None:
        """Remember an end that was read while the call that started the response was still open."""
        self._early_ends[end.id] = end
        if len(self._early_ends) > _EARLY_ENDS_MAX:
            self._early_ends.popitem(last=False)

    def take_early_end(self, name: str) -> ResponseEnd | None:
        """The end that was remembered, which it no longer is afterwards."""
        return self._early_ends.pop(name, None)

    def take_unsettled(self, name: str) -> ResponseOrigin | None:
        """The origin with its unsettled entry, which it no longer has afterwards; None without one."""
        origin = self._origins_by_id.get(name)
        if origin is None or origin.unsettled is None:
            return None
        self._origins_by_id[name] = structs.replace(origin, unsettled=None)
        return origin

    def __len__(self) -> int:
        return len(self._origins_by_id)

    def _evict(self, name: str) -> None:
        self._transcript_bytes_total -= self._transcript_bytes.pop(name, 0)
        self._origins_by_id.pop(name, None)
