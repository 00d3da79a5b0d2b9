"""The playbook: say what the provider and the caller do, then read the exact sequence of what happened.

book = Playbook(world, provider=[Fails(Unreachable("down")), Answers(body=...)]) answer = await book.ask(body) assert
book.events == ["reserve", "hold", "dial small", "settle", "entry upstream_error", ...]
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..accounting.budgets import BudgetBook
from ..accounting.output_estimate import OutputBook
from ..dialects import chat
from ..dialects.answer_fingerprint import Beginning
from ..pipeline.pipeline import Exchange
from ..providers.upstream_call import UpstreamCall
from ..routing.circuit_breaker import HealthBook
from ..sessions.lineage import History
from ..sessions.session_index import Session, SessionBook
from ..values.budget import Amounts, Exceeded, Offer, Reservation
from ..values.caller_response import Answer
from ..values.errors import CallerGone, Overloaded, UpstreamError
from ..values.ledger_entry import Hold, LedgerEntry
from ..values.request import Caller, Hints, Message
from ..values.session import SessionEvent
from ..values.snapshot import World

CALLER = Caller(key="k1", team="research")
JSON = {"Content-Type": "application/json"}
SSE = {"Content-Type": "text/event-stream"}


@dataclass(slots=True, kw_only=True)
class Answers:
    """The provider answers: a status, headers, and the body in pieces; an exception among them is raised there."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: JSON)
    body: Sequence[bytes | Exception] = ()
    closed: bool = False

    async def chunk(self) -> bytes:
        """The next piece, b"" after the last."""
        if not self.body:
            return b""
        piece, self.body = self.body[0], self.body[1:]
        if isinstance(piece, BaseException):
            raise piece
        return piece

    async def read(self, limit: int) -> bytes:
        """All pieces."""
        parts = []
        while piece := await self.chunk():
            parts.append(piece)
        return b"".join(parts)[:limit]

    def close(self) -> None:
        """Remember that it was closed."""
        self.closed = True


@dataclass
class FakeClock:
    """Time that moves only when told to, or when somebody sleeps."""

    at: float = 1_790_000_000.0

    def now(self) -> float:
        """Seconds since the epoch."""
        return self.at

    def monotonic(self) -> float:
        """The same."""
        return self.at

    async def sleep(self, seconds: float) -> None:
        """Time passes at once."""
        self.at += seconds


class FakeChance:
    """Request ids r1, r2, ...; jitter in the middle."""

    def __init__(self) -> None:
        self._count = 0

    def request_id(self) -> str:
        """The next id."""
        self._count += 1
        return f"r{self._count}"

    def jitter(self) -> float:
        """Always 0.5."""
        return 0.5


class FakeReply:
    """The caller's side of a stream; hangs up before byte `gone_after`."""

    def __init__(self, events: list[str], gone_after: int | None = None) -> None:
        self._events = events
        self._gone_after = gone_after
        self.data = b""
        self.headers: Mapping[str, str] = {}

    async def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """The status line."""
        self._events.append(f"begin {status}")
        self.headers = headers

    async def write(self, data: bytes) -> None:
        """Bytes; raises CallerGone once the caller has gone."""
        if self._gone_after is not None and len(self.data) >= self._gone_after:
            raise CallerGone("gone")
        self.data += data
        self._events.append("chunk")


class Playbook:
    """An exchange whose every door is here: it keeps the sequence of events and the ledger."""

    def __init__(self, world: World, provider: Sequence[Answers | UpstreamError], *, disk_full: bool = False) -> None:
        self.world = world
        self.events: list[str] = []
        self.entries: list[LedgerEntry] = []
        self.session_events: list[SessionEvent] = []
        self.calls: list[UpstreamCall] = []
        self.clock = FakeClock()
        self.book = BudgetBook()
        self.reply = FakeReply(self.events)
        self._provider = list(provider)
        self._disk_full = disk_full
        self.exchange = Exchange(
            world=lambda: self.world,
            budgets=self,
            sessions=SessionBook(),
            health=HealthBook(),
            upstream=self,
            counter=self,
            ledger=self,
            clock=self.clock,
            chance=FakeChance(),
            outputs=OutputBook(),
            news=self,
        )

    def happened(self, event: SessionEvent) -> None:
        """Keep what happened to sessions."""
        self.session_events.append(event)

    shared = False

    def joined(self, caller: Caller, session: Session) -> None:
        """Nobody else is there."""

    def answered(self, caller: Caller, session: Session, tip: int, heard: Beginning) -> None:
        """Nobody else is there."""

    async def recall(self, caller: Caller, name: str) -> None:
        """Nobody else is there."""

    async def told(self) -> None:
        """Nobody else is there."""

    async def learn(self, caller: Caller, history: History) -> None:
        """Nobody else is there."""

    def link(self, key: str, session: str, stop: str) -> str:
        """A link that leads nowhere."""
        return f"http://gateway.test/approve/{key}.{session}.{stop}"

    async def ask(self, body: bytes, caller: Caller = CALLER, **hints: str) -> Answer:
        """Serve one request."""
        return await self.exchange.serve(chat.parse(body), caller, Hints(**hints), self.reply)  # type: ignore[arg-type]

    async def reserve(
        self,
        reservation_id: str,
        offers_at: Callable[[float], Iterable[Offer]],
        *,
        tenant: str,
        now: float,
        lease: float,
    ) -> Reservation | Exceeded:
        """The real book, overheard."""
        self.events.append("reserve")
        return self.book.reserve(reservation_id, offers_at(now), now=now, lease=lease)

    async def extend(self, reservation_id: str, number: int, more: Sequence[int], *, now: float) -> bool:
        """The real book, overheard."""
        extended = self.book.extend(reservation_id, number, more, now=now)
        self.events.append("extend" if extended else "extend refused")
        return extended

    def settle(self, reservation_id: str, spent: Amounts, *, now: float) -> bool:
        """The real book, overheard."""
        self.events.append("settle" if any(spent) else "void")
        return self.book.settle(reservation_id, spent, now=now) is not None

    async def count(self, messages: Sequence[Message]) -> int | None:
        """A count of one token a word."""
        self.events.append("count")
        return sum(len(str(message.content).split()) for message in messages)

    def hold(self, hold: Hold) -> None:
        """The journal before dialling."""
        if self._disk_full:
            raise Overloaded("disk full")
        self.events.append("hold")

    def record(self, entry: LedgerEntry) -> None:
        """The ledger."""
        self.entries.append(entry)
        self.events.append(f"entry {entry.outcome}")

    async def dial(self, call: UpstreamCall) -> Answers:
        """The next thing that the provider does."""
        self.calls.append(call)
        self.events.append(f"dial {call.deployment.name}")
        does = self._provider.pop(0)
        if isinstance(does, UpstreamError):
            raise does
        return does
