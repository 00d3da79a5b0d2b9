"""What the pipeline needs from outside: clock, randomness, budgets, ledger, upstream, session store."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from ..dialects.answer_fingerprint import AnswerFingerprint
from ..providers.upstream_call import UpstreamCall
from ..sessions.lineage import History
from ..sessions.session_index import Session
from ..values.budget import Amounts, BudgetExceeded, HoldOption, Reservation
from ..values.ledger_entry import Hold, LedgerEntry
from ..values.request import Caller, Message
from ..values.session import SessionEvent
from .context import AttemptProgress, RequestContext


class BudgetStore(Protocol):
    """Where holds are taken; reserving may ask a shared store, resolving must not wait.

    `offers_at(now)` gives the offers as they stand at a time: a shared store decides by its own clock. `tenant` is the
    organisation within which everything is reserved together.
    """

    async def reserve(
        self,
        reservation_id: str,
        offers_at: Callable[[float], Iterable[HoldOption]],
        *,
        tenant: str,
        now: float,
        lease: float,
    ) -> Reservation | BudgetExceeded: ...
    async def extend(self, reservation_id: str, number: int, more: Sequence[int], *, now: float) -> bool: ...
    def settle(self, reservation_id: str, spent: Amounts, *, now: float) -> bool: ...


class Clock(Protocol):
    """The time: `now` in seconds since the epoch, `monotonic` in seconds from anywhere."""

    def now(self) -> float: ...
    def monotonic(self) -> float: ...
    async def sleep(self, seconds: float) -> None: ...


class Randomness(Protocol):
    """What is not determined: fresh request ids, jitter in [0, 1)."""

    def request_id(self) -> str: ...
    def jitter(self) -> float: ...


class LedgerWriter(Protocol):
    """The memory. `hold` writes down what a crash would leave behind and raises Overloaded if it cannot; `record` takes
    the fact and never fails for the request."""

    def append_hold(self, hold: Hold) -> None: ...
    def append_entry(self, entry: LedgerEntry) -> None: ...


class InputTokenCounter(Protocol):
    """Counts tokens with a vocabulary, slowly; None if it cannot."""

    async def count(self, messages: Sequence[Message]) -> int | None: ...


class CallObserver(Protocol):
    """Who learns from calls, when they are dialled and when they have ended; waits for nobody."""

    def call_started(self, context: RequestContext, progress: AttemptProgress) -> None: ...
    def call_ended(self, context: RequestContext, progress: AttemptProgress, entry: LedgerEntry) -> None: ...


class Upstream(Protocol):
    """The door to providers; raises Unreachable or UpstreamTimeout."""

    async def dial(self, call: UpstreamCall) -> "UpstreamResponse": ...


class UpstreamResponse(Protocol):
    """A provider's answer that has begun. `chunk` gives b"" at the end; both raise UpstreamError."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    async def read(self, limit: int) -> bytes: ...
    async def read_chunk(self) -> bytes: ...
    def close(self) -> None: ...


class ResponseWriter(Protocol):
    """The caller's side of a stream; `begin` and `write` raise CallerGone."""

    async def begin(self, status: int, headers: Mapping[str, str]) -> None: ...
    async def write(self, data: bytes) -> None: ...


class SessionSync(Protocol):
    """Who hears what happens to sessions (and waits for nobody), knows the link by which a person lets one go on ("" for
    none), and, where `shared`, can be asked what other gateways know: `recall` of a name, `learn` of a history."""

    is_shared: bool

    def publish_event(self, event: SessionEvent) -> None: ...
    def approval_link(self, key: str, session: str, stop: str) -> str: ...
    def publish_session(self, caller: Caller, session: Session) -> None: ...
    def publish_answer(self, caller: Caller, session: Session, tip: int, heard: AnswerFingerprint) -> None: ...
    async def fetch_session(self, caller: Caller, name: str) -> None: ...
    async def flush(self) -> None: ...
    async def fetch_history(self, caller: Caller, history: History) -> None: ...
