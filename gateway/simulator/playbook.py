"""The playbook: script the provider, then check the exact sequence of events.

book = Playbook(snapshot, provider=[Unreachable("down"), UpstreamAnswer(body=...)])
response = await book.ask(body)
assert book.events == ["reserve", "hold", "dial small", "settle", "entry upstream_error", ...]

The caller's moves are set before the request: `book.caller_stream.disconnect_after_bytes`. What happens while the
request waits is a function of the clock: `book.clock.on_sleep`. What others spend or hold on its budgets is booked with
`book.spend` and `book.hold`.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..accounting.budget_lines import lines_for, scope_of
from ..accounting.budgets import BudgetAccounts
from ..accounting.output_estimate import OutputEstimates
from ..dialects import chat
from ..dialects.answer_fingerprint import AnswerFingerprint
from ..pipeline.pipeline import Pipeline
from ..pipeline.ports import CallObserver
from ..providers.upstream_call import UpstreamCall
from ..routing.circuit_breaker import CircuitBreakers
from ..routing.scorer import Scorer
from ..sessions.lineage import History
from ..sessions.session_index import Session, SessionIndex
from ..values.budget import (
    REQUEST_DIMENSIONS,
    ZERO_AMOUNTS,
    Amounts,
    BudgetExceeded,
    BudgetLine,
    HoldOption,
    Reservation,
)
from ..values.caller_response import CallerResponse
from ..values.errors import CallerDisconnected, Overloaded, UpstreamError
from ..values.ledger_entry import Hold, LedgerEntry
from ..values.request import Caller, HeaderHints, Message
from ..values.session import SessionEvent
from ..values.snapshot import Snapshot

CALLER = Caller(key="k1", team="research")
JSON_HEADERS = {"Content-Type": "application/json"}
SSE_HEADERS = {"Content-Type": "text/event-stream"}


class Silence:
    """The provider sends nothing for longer than an opening is held back."""


@dataclass(slots=True, kw_only=True)
class UpstreamAnswer:
    """The provider's answer: status, headers and body chunks.

    An exception among the chunks is raised in its place; `Silence` lets a bounded read end without bytes.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: JSON_HEADERS)
    body: Sequence["bytes | Exception | Silence"] = ()
    closed: bool = False

    async def read_chunk(self) -> bytes:
        """The next chunk, b"" after the last."""
        if not self.body:
            return b""
        chunk, self.body = self.body[0], self.body[1:]
        if isinstance(chunk, Silence):
            return await self.read_chunk()
        if isinstance(chunk, BaseException):
            raise chunk
        return chunk

    async def read_chunk_within(self, seconds: float) -> bytes | None:
        """The next chunk; None at a silence."""
        if self.body and isinstance(self.body[0], Silence):
            self.body = self.body[1:]
            return None
        return await self.read_chunk()

    async def read(self, limit: int) -> bytes:
        """All chunks."""
        chunks = []
        while chunk := await self.read_chunk():
            chunks.append(chunk)
        return b"".join(chunks)[:limit]

    def close(self) -> None:
        """Record that it was closed."""
        self.closed = True


@dataclass
class FakeClock:
    """A clock that only moves when it is set, or by sleeping.

    seconds: since the epoch
    monotonic_seconds: where it differs from `seconds`, as after the wall clock was set
    on_sleep: called instead of sleeping, with the seconds; it may move the clock, and change anything else
    """

    seconds: float = 1_790_000_000.0
    monotonic_seconds: float | None = None
    on_sleep: Callable[[float], Awaitable[None]] | None = None

    def now(self) -> float:
        """Seconds since the epoch."""
        return self.seconds

    def monotonic(self) -> float:
        """The same, unless `monotonic_seconds` is set."""
        return self.seconds if self.monotonic_seconds is None else self.monotonic_seconds

    async def sleep(self, seconds: float) -> None:
        """Advance the clock without waiting, or call `on_sleep`."""
        if self.on_sleep is None:
            self.seconds += seconds
        else:
            await self.on_sleep(seconds)


class FakeRandomness:
    """Request ids r1, r2, ...; jitter of one half."""

    def __init__(self) -> None:
        self._count = 0

    def request_id(self) -> str:
        """The next id."""
        self._count += 1
        return f"r{self._count}"

    def jitter(self) -> float:
        """Always 0.5."""
        return 0.5


class FakeCallerStream:
    """The caller's side of a stream.

    disconnect_after_bytes: the caller disconnects once it has received this many; None for never
    written, headers: what it received
    """

    def __init__(self, events: list[str], disconnect_after_bytes: int | None = None) -> None:
        self._events = events
        self.disconnect_after_bytes = disconnect_after_bytes
        self.written = b""
        self.headers: Mapping[str, str] = {}

    async def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Record the status line."""
        self._events.append(f"begin {status}")
        self.headers = headers

    async def write(self, data: bytes) -> None:
        """Record bytes; raises CallerDisconnected once the caller has disconnected."""
        if self.disconnect_after_bytes is not None and len(self.written) >= self.disconnect_after_bytes:
            raise CallerDisconnected("disconnected")
        self.written += data
        self._events.append("chunk")


class Playbook:
    """A pipeline with fake adapters: records the sequence of events and the ledger.

    provider: what it answers, one step for each call
    disk_full: no hold can be written
    reservations_max: the budget store is unavailable after this many reservations; None for never
    observer: notified of every call
    scorer: scores the complexity of requests; None for the rules without one
    """

    def __init__(
        self,
        snapshot: Snapshot,
        provider: Sequence[UpstreamAnswer | UpstreamError],
        *,
        disk_full: bool = False,
        reservations_max: int | None = None,
        observer: CallObserver | None = None,
        scorer: Scorer | None = None,
    ) -> None:
        self.snapshot = snapshot
        self.events: list[str] = []
        self.ledger_entries: list[LedgerEntry] = []
        self.session_events: list[SessionEvent] = []
        self.upstream_calls: list[UpstreamCall] = []
        self.leases: list[float] = []
        self.sessions = SessionIndex()
        self.circuit_breakers = CircuitBreakers()
        self.clock = FakeClock()
        self.budget_accounts = BudgetAccounts()
        self.caller_stream = FakeCallerStream(self.events)
        self.upstream_script = list(provider)
        self._disk_full = disk_full
        self._reservations_max = reservations_max
        self.pipeline = Pipeline(
            snapshot=lambda: self.snapshot,
            budgets=self,
            sessions=self.sessions,
            circuit_breakers=self.circuit_breakers,
            upstream=self,
            token_counter=self,
            ledger=self,
            clock=self.clock,
            randomness=FakeRandomness(),
            output_estimates=OutputEstimates(),
            session_sync=self,
            observer=observer,
            scorer=scorer,
        )

    def publish_event(self, event: SessionEvent) -> None:
        """Record a session event."""
        self.session_events.append(event)

    is_shared = False

    def publish_session(self, caller: Caller, session: Session) -> None:
        """No replicas."""

    def publish_answer(self, caller: Caller, session: Session, digest: int, answer: AnswerFingerprint) -> None:
        """No replicas."""

    async def fetch_session(self, caller: Caller, name: str) -> None:
        """No replicas."""

    async def flush(self) -> None:
        """No replicas."""

    async def fetch_history(self, caller: Caller, history: History) -> None:
        """No replicas."""

    def approval_link(self, key: str, session: str, stop: str) -> str:
        """A link to a host that does not exist."""
        return f"http://gateway.test/approve/{key}.{session}.{stop}"

    async def ask(self, body: bytes, caller: Caller = CALLER, **hints: Any) -> CallerResponse:
        """Serve one request; `hints` are fields of HeaderHints."""
        return await self.pipeline.serve(chat.parse(body), caller, HeaderHints(**hints), self.caller_stream)

    def budget_lines(self, *, deployment: str = "small", caller: Caller = CALLER) -> tuple[BudgetLine, ...]:
        """The lines of the configured budgets that apply to the caller's requests without a session."""
        scope = dict.fromkeys(REQUEST_DIMENSIONS, "") | {"org": caller.org, "team": caller.team, "key": caller.key}
        scope |= scope_of(self.snapshot.deployments[deployment])
        return lines_for(self.snapshot.budgets, scope, now=self.clock.now())

    def spend(self, amount: int) -> None:
        """Book an amount on the first of `budget_lines`, as if other calls had spent it."""
        self.budget_accounts.restore(self.budget_lines()[0], amount, at=self.clock.now())

    def hold(self, reservation_id: str, amount: int) -> None:
        """Hold an amount on the first of `budget_lines`, as if another call were being served."""
        line = self.budget_lines()[0]
        option = HoldOption(lines=(line,), amounts=(amount,), ceilings=(line.ceiling,))
        reserved = self.budget_accounts.reserve(reservation_id, [option], now=self.clock.now(), lease=600.0)
        assert isinstance(reserved, Reservation), "the hold fits"

    def resolve(self, reservation_id: str, spent: Amounts = ZERO_AMOUNTS) -> None:
        """End a hold; without `spent` nothing is charged."""
        self.budget_accounts.settle(reservation_id, spent, now=self.clock.now())

    async def reserve(
        self,
        reservation_id: str,
        options_at: Callable[[float], Iterable[HoldOption]],
        *,
        tenant: str,
        now: float,
        lease: float,
    ) -> Reservation | BudgetExceeded:
        """Record, then reserve in the real accounts."""
        self.events.append("reserve")
        self.leases.append(lease)
        if self._reservations_max is not None and len(self.leases) > self._reservations_max:
            raise Overloaded("Budget store unavailable.")
        return self.budget_accounts.reserve(reservation_id, options_at(now), now=now, lease=lease)

    async def extend(self, reservation_id: str, number: int, more: Sequence[int], *, now: float) -> bool:
        """Extend in the real accounts, then record."""
        extended = self.budget_accounts.extend(reservation_id, number, more, now=now)
        self.events.append("extend" if extended else "extend refused")
        return extended

    def settle(self, reservation_id: str, spent: Amounts, *, now: float) -> bool:
        """Record, then settle in the real accounts."""
        self.events.append("settle" if any(spent) else "void")
        return self.budget_accounts.settle(reservation_id, spent, now=now) is not None

    async def wait_for_release(
        self, line: BudgetLine, *, tenant: str, since: float, seconds: float, seconds_max: float
    ) -> None:
        """Sleep by the clock, whose `on_sleep` may settle a hold."""
        await self.clock.sleep(seconds)

    def correct(self, changes: Sequence[tuple[BudgetLine, int]], *, tenant: str, at: float, now: float) -> None:
        """Record, then correct the real accounts."""
        self.events.append("correct")
        for line, change in changes:
            self.budget_accounts.correct(line, change, at=at, now=now)

    async def count(self, messages: Sequence[Message]) -> int | None:
        """A count of one token per word."""
        self.events.append("count")
        return sum(len(str(message.content).split()) for message in messages)

    def append_hold(self, hold: Hold) -> None:
        """Record the hold in the journal."""
        if self._disk_full:
            raise Overloaded("disk full")
        self.events.append("hold")

    def append_entry(self, entry: LedgerEntry) -> None:
        """Record the ledger entry."""
        self.ledger_entries.append(entry)
        self.events.append(f"entry {entry.outcome}")

    async def dial(self, call: UpstreamCall) -> UpstreamAnswer:
        """The next step of the provider's script."""
        self.upstream_calls.append(call)
        self.events.append(f"dial {call.deployment.name}")
        step = self.upstream_script.pop(0)
        if isinstance(step, UpstreamError):
            raise step
        return step
