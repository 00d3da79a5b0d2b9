"""What the pipeline needs from outside: clock, randomness, budgets, ledger, upstream, session store."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from ..dialects.answer_fingerprint import Beginning
from ..providers.upstream_call import UpstreamCall
from ..sessions.lineage import History
from ..sessions.session_index import Session
from ..values.budget import Amounts, Exceeded, Offer, Reservation
from ..values.ledger_entry import Hold, LedgerEntry
from ..values.request import Caller, Message
from ..values.session import SessionEvent
from .context import Decided, Progress


class Budgets(Protocol):
    """Where holds are taken; reserving may ask a shared store, resolving must not wait.

    `offers_at(now)` gives the offers as they stand at a time: a shared store decides by its own clock. `tenant` is the
    organisation within which everything is reserved together.
    """

    async def reserve(
        self,
        reservation_id: str,
        offers_at: Callable[[float], Iterable[Offer]],
        *,
        tenant: str,
        now: float,
        lease: float,
    ) -> Reservation | Exceeded: ...
    async def extend(self, reservation_id: str, number: int, more: Sequence[int], *, now: float) -> bool: ...
    def settle(self, reservation_id: str, spent: Amounts, *, now: float) -> bool: ...


class Clock(Protocol):
    """The time: `now` in seconds since the epoch, `monotonic` in seconds from anywhere."""

    def now(self) -> float: ...
    def monotonic(self) -> float: ...
    async def sleep(self, seconds: float) -> None: ...


class Chance(Protocol):
    """What is not determined: fresh request ids, jitter in [0, 1)."""

    def request_id(self) -> str: ...
    def jitter(self) -> float: ...


class Ledger(Protocol):
    """The memory. `hold` writes down what a crash would leave behind and raises Overloaded if it cannot; `record` takes
    the fact and never fails for the request."""

    def hold(self, hold: Hold) -> None: ...
    def record(self, entry: LedgerEntry) -> None: ...


class Counter(Protocol):
    """Counts tokens with a vocabulary, slowly; None if it cannot."""

    async def count(self, messages: Sequence[Message]) -> int | None: ...


class Learner(Protocol):
    """Who learns from calls, when they are dialled and when they have ended; waits for nobody."""

    def dialled(self, decided: Decided, progress: Progress) -> None: ...
    def served(self, decided: Decided, progress: Progress, entry: LedgerEntry) -> None: ...


class Upstream(Protocol):
    """The door to providers; raises Unreachable or UpstreamTimeout."""

    async def dial(self, call: UpstreamCall) -> "Answering": ...


class Answering(Protocol):
    """A provider's answer that has begun. `chunk` gives b"" at the end; both raise UpstreamError."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    async def read(self, limit: int) -> bytes: ...
    async def chunk(self) -> bytes: ...
    def close(self) -> None: ...


class Reply(Protocol):
    """The caller's side of a stream; `begin` and `write` raise CallerGone."""

    async def begin(self, status: int, headers: Mapping[str, str]) -> None: ...
    async def write(self, data: bytes) -> None: ...


class SessionNews(Protocol):
    """Who hears what happens to sessions (and waits for nobody), knows the link by which a person lets one go on ("" for
    none), and, where `shared`, can be asked what other gateways know: `recall` of a name, `learn` of a history."""

    shared: bool

    def happened(self, event: SessionEvent) -> None: ...
    def link(self, key: str, session: str, stop: str) -> str: ...
    def joined(self, caller: Caller, session: Session) -> None: ...
    def answered(self, caller: Caller, session: Session, tip: int, heard: Beginning) -> None: ...
    async def recall(self, caller: Caller, name: str) -> None: ...
    async def told(self) -> None: ...
    async def learn(self, caller: Caller, history: History) -> None: ...
