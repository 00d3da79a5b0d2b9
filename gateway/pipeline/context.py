"""What is known of one request and of one attempt while it runs."""

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from ..dialects.answer_fingerprint import NO_FINGERPRINT, AnswerFingerprint
from ..dialects.parsed_answer import ParsedAnswer
from ..dialects.sse import StreamMeter
from ..dialects.translation import Translator
from ..dialects.translation.translated import AnswerTranslator
from ..routing.tier_target import TierTarget
from ..sessions.ladder import LoopState
from ..sessions.response_origins import ResponseOrigin
from ..sessions.session_index import Session
from ..values.base import Value
from ..values.budget import Reservation
from ..values.catalog import Route
from ..values.energy_policy import Deferral
from ..values.plan import Attempt, Classification, RequestFeatures
from ..values.request import Caller, HeaderHints, Request
from ..values.snapshot import Snapshot
from ..values.usage import Usage


class StreamHold(Protocol):
    """Whether a stream may go on after so many output tokens; see holding.Watch."""

    async def covers(self, output_tokens: int) -> bool: ...


class DeferredWait(Value, frozen=True, kw_only=True):
    """A request that waited for a greener hour: how long, and the intensity (gCO2e/kWh) that it would have been served at
    had it not."""

    seconds: float
    undeferred_grams_per_kwh: float


class RequestContext(Value, frozen=True, kw_only=True):
    """What is settled about a request before anything is dialled. `at` is wall clock, `started` monotonic, seconds;
    `tip` the digest of the history where the session was inferred by it, `note` what an operator wants the model to see.
    `aim` is None where the route leaves no choice; the answer is wanted within `deadline_ms` of the request. `deferral` says
    how long it may wait for a greener hour (None: not at all), `waited` how long it did (None: it did not)."""

    request_id: str
    started_at: float
    started_monotonic: float
    snapshot: Snapshot
    caller: Caller
    request: Request
    session: Session
    route: Route
    features: RequestFeatures
    classification: Classification
    loop_state: LoopState
    translator: Translator
    user: str = ""
    history_digest: int = 0
    operator_note: str = ""
    target: TierTarget | None = None
    deadline_ms: float | None = None
    deferral: Deferral | None = None
    deferred_wait: DeferredWait | None = None


class AttemptProgress(msgspec.Struct, kw_only=True):
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
    got_error_status: bool = False
    first_byte_monotonic: float | None = None
    stream_meter: StreamMeter | None = None
    response_translator: AnswerTranslator | None = None
    usage: Usage | None = None
    answer_id: str = ""
    is_probe: bool = False
    missing_dialect: str = ""
    reservation: Reservation | None = None
    stream_hold: StreamHold | None = None
    billed_units: int | None = None
    text_bytes: int = 0
    needs_verification: bool = False
    answer_fingerprint: AnswerFingerprint = NO_FINGERPRINT
    tool_calls: tuple[tuple[Any, Any, Any], ...] = ()
    parsed_answer: ParsedAnswer | None = None
    failed_checks: tuple[str, ...] = ()
    response_begun: bool = False
    outcome: str = "cancelled"
    status: int = 499
    code: str = "caller_gone"


class IdentifiedRequest(Value, frozen=True, kw_only=True):
    """A request and whose it is, before anything was decided about it. `standing` is not weighed against limits yet."""

    request_id: str
    received_at: float
    snapshot: Snapshot
    route: Route
    request: Request
    caller: Caller
    hints: HeaderHints
    session: Session
    origins: Sequence[ResponseOrigin]
    loop_state: LoopState
    history_digest: int
