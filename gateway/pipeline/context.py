"""What is known of one request and of one attempt while it runs."""

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from ..dialects.answer_fingerprint import UNHEARD, Beginning
from ..dialects.parsed_answer import Said
from ..dialects.sse import Meter
from ..dialects.translation import Carrier
from ..dialects.translation.translated import Back
from ..routing.tier_target import Aim
from ..sessions.ladder import Standing
from ..sessions.response_origins import Origin
from ..sessions.session_index import Session
from ..values.base import Value
from ..values.budget import Reservation
from ..values.catalog import Route
from ..values.energy_policy import Deferral
from ..values.plan import Attempt, Facts, Verdict
from ..values.request import Caller, Hints, Request
from ..values.snapshot import World
from ..values.usage import Usage


class Watching(Protocol):
    """Whether a stream may go on after so many output tokens; see holding.Watch."""

    async def covers(self, output_tokens: int) -> bool: ...


class Waited(Value, frozen=True, kw_only=True):
    """A request that waited for a greener hour: how long, and the intensity (gCO2e/kWh) that it would have been served at
    had it not."""

    seconds: float
    grams_per_kwh: float


class Decided(Value, frozen=True, kw_only=True):
    """What is settled about a request before anything is dialled. `at` is wall clock, `started` monotonic, seconds;
    `tip` the digest of the history where the session was inferred by it, `note` what an operator wants the model to see.
    `aim` is None where the route leaves no choice; the answer is wanted within `deadline_ms` of the request. `deferral` says
    how long it may wait for a greener hour (None: not at all), `waited` how long it did (None: it did not)."""

    request_id: str
    at: float
    started: float
    world: World
    caller: Caller
    request: Request
    session: Session
    route: Route
    facts: Facts
    verdict: Verdict
    standing: Standing
    carrier: Carrier
    user: str = ""
    tip: int = 0
    note: str = ""
    aim: Aim | None = None
    deadline_ms: float | None = None
    deferral: Deferral | None = None
    waited: Waited | None = None


class Progress(msgspec.Struct, kw_only=True):
    """How far one attempt has come; written only by the exchange while the attempt runs.

    It begins as what a cancellation would make of it. `dialled` False means that nothing can have been spent. `refused`
    means that the provider answered with an error status, which none of them charges for. `heard` is how the answer
    begins, `calls` the calls that it makes where the provider keeps the conversation; `said` what a whole answer says, read
    where its doubtfulness decides (`verified`), and `doubts` what speaks against it. `pieces` are what was paid for by
    the piece, where the answer says. `back` brought the answer into the caller's dialect. `probe`: the attempt tries a
    deployment whose circuit is half open; `not_spoken`: the dialect whose path it did not have just before. `watch`
    follows a stream whose hold may have to grow.
    """

    number: int
    attempt: Attempt
    dialled: bool = False
    refused: bool = False
    first_byte: float | None = None
    stream: Meter | None = None
    back: Back | None = None
    usage: Usage | None = None
    answer_id: str = ""
    probe: bool = False
    not_spoken: str = ""
    reservation: Reservation | None = None
    watch: Watching | None = None
    pieces: int | None = None
    text_bytes: int = 0
    verified: bool = False
    heard: Beginning = UNHEARD
    calls: tuple[tuple[Any, Any, Any], ...] = ()
    said: Said | None = None
    doubts: tuple[str, ...] = ()
    answered: bool = False
    outcome: str = "cancelled"
    status: int = 499
    code: str = "caller_gone"


class Arrived(Value, frozen=True, kw_only=True):
    """A request and whose it is, before anything was decided about it. `standing` is not weighed against limits yet."""

    request_id: str
    at: float
    world: World
    route: Route
    request: Request
    caller: Caller
    hints: Hints
    session: Session
    origins: Sequence[Origin]
    standing: Standing
    tip: int
