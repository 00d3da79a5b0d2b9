"""What the pipeline needs from adapters and services, as Protocols."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Protocol

from ..dialects.answer_fingerprint import AnswerFingerprint
from ..providers.upstream_call import UpstreamCall
from ..sessions.lineage import History
from ..sessions.session_index import Session
from ..values.budget import Amounts, BudgetExceeded, BudgetLine, HoldOption, Reservation
from ..values.ledger_entry import Hold, LedgerEntry
from ..values.request import Caller, Message
from ..values.session import SessionEvent
from ..values.stored_object import StoredObject
from .context import AttemptProgress, RequestContext


class BudgetStore(Protocol):
    """Reserves, extends and settles holds; settling never waits.

    correct: changes by how much accounts were charged at an earlier time, up or down

    options_at: the hold options at a time; a shared store decides by its own clock
    tenant: the organization within which everything is reserved together
    now: seconds since the epoch
    lease: seconds until a hold that is not settled expires

    wait_for_release: wait until a hold on the account is settled, or for `seconds`, behind many others for up to
        `seconds_max`; of those that wait, who has waited longest (`since`, monotonic) is woken first
    """

    async def reserve(
        self,
        reservation_id: str,
        options_at: Callable[[float], Iterable[HoldOption]],
        *,
        tenant: str,
        now: float,
        lease: float,
    ) -> Reservation | BudgetExceeded: ...
    async def extend(self, reservation_id: str, number: int, more: Sequence[int], *, now: float) -> bool: ...
    def correct(self, changes: Sequence[tuple[BudgetLine, int]], *, tenant: str, at: float, now: float) -> None: ...
    def settle(self, reservation_id: str, spent: Amounts, *, now: float) -> bool: ...
    async def wait_for_release(
        self, line: BudgetLine, *, tenant: str, since: float, seconds: float, seconds_max: float
    ) -> None: ...


class Clock(Protocol):
    """The time: `now` since the epoch, `monotonic` from any start, in seconds."""

    def now(self) -> float: ...
    def monotonic(self) -> float: ...
    async def sleep(self, seconds: float) -> None: ...


class Randomness(Protocol):
    """Random values: new request ids, jitter in [0, 1)."""

    def request_id(self) -> str: ...
    def jitter(self) -> float: ...


class LedgerWriter(Protocol):
    """Writes the ledger.

    append_hold: record an attempt before it is dialed, for recovery after a crash; raises Overloaded
    append_entry: record an ended attempt or request; never fails the request
    """

    def append_hold(self, hold: Hold) -> None: ...
    def append_entry(self, entry: LedgerEntry) -> None: ...


class InputTokenCounter(Protocol):
    """Counts input tokens with a tokenizer, slowly; None if it cannot."""

    async def count(self, messages: Sequence[Message]) -> int | None: ...


class CallObserver(Protocol):
    """Notified when calls are dialed and when they have ended; must not block."""

    def call_started(self, context: RequestContext, progress: AttemptProgress) -> None: ...
    def call_ended(self, context: RequestContext, progress: AttemptProgress, entry: LedgerEntry) -> None: ...


class Upstream(Protocol):
    """Dials providers; raises Unreachable or UpstreamTimeout."""

    async def dial(self, call: UpstreamCall) -> "UpstreamResponse": ...


class UpstreamResponse(Protocol):
    """A response whose status line has arrived.

    `read_chunk` returns b"" at the end, `read_chunk_within` None if nothing arrives in so many seconds; reads raise
    UpstreamError.
    """

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    async def read(self, limit: int) -> bytes: ...
    async def read_chunk(self) -> bytes: ...
    async def read_chunk_within(self, seconds: float) -> bytes | None: ...
    def close(self) -> None: ...


class ResponseWriter(Protocol):
    """The caller's side of a stream; `begin` and `write` raise CallerDisconnected."""

    async def begin(self, status: int, headers: Mapping[str, str]) -> None: ...
    async def write(self, data: bytes) -> None: ...


class SessionSync(Protocol):
    """Publishes session changes without blocking; fetches those of replicas.

    is_shared: a store is shared with other replicas; only then are `fetch_*` and `flush` of use
    approval_link: the link by which an operator resumes a stopped session, "" for none
    fetch_session: load a session by its id
    fetch_history: load the sessions that a history may continue
    flush: wait until published changes are in the store
    """

    is_shared: bool

    def publish_event(self, event: SessionEvent) -> None: ...
    def approval_link(self, key: str, session: str, stop: str) -> str: ...
    def publish_session(self, caller: Caller, session: Session) -> None: ...
    def publish_answer(self, caller: Caller, session: Session, digest: int, answer: AnswerFingerprint) -> None: ...
    async def fetch_session(self, caller: Caller, name: str) -> None: ...
    async def flush(self) -> None: ...
    async def fetch_history(self, caller: Caller, history: History) -> None: ...


class ObjectDirectory(Protocol):
    """Knows where providers' objects are beyond this process: at its replicas and in its ledger.

    find: the known ones of these ids; with `must_know` raises Overloaded where the replicas cannot be asked
    publish: record an object without waiting; `is_new`: unless its id is recorded
    flush: wait until published objects are known to the replicas
    book_once: call `book` unless the correction with that id was booked, here or at another replica: then `lost`.
        Begins at once, whether or not the result is awaited; None where it has ended already
    """

    async def find(self, names: Sequence[str], *, must_know: bool) -> Mapping[str, StoredObject]: ...
    def publish(self, name: str, stored: StoredObject, *, is_new: bool) -> None: ...
    async def flush(self) -> None: ...
    def book_once(
        self, name: str, correction_id: str, book: Callable[[], None], lost: Callable[[], object]
    ) -> Awaitable[None] | None: ...


class NoObjectDirectory:
    """Knows nothing beyond this process."""

    async def find(self, names: Sequence[str], *, must_know: bool) -> Mapping[str, StoredObject]:  # noqa: ARG002
        """None are known."""
        return {}

    def publish(self, name: str, stored: StoredObject, *, is_new: bool) -> None:
        """There are no replicas."""

    async def flush(self) -> None:
        """There are no replicas."""

    def book_once(
        self,
        name: str,  # noqa: ARG002
        correction_id: str,  # noqa: ARG002
        book: Callable[[], None],
        lost: Callable[[], object],  # noqa: ARG002
    ) -> Awaitable[None] | None:
        """Book at once: no other process can have booked it."""
        book()
        return None
