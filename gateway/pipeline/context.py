"""The values of one request, from identified request to attempt progress."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from ..dialects.answer_fingerprint import NO_FINGERPRINT, AnswerFingerprint
from ..dialects.parsed_answer import ParsedAnswer
from ..dialects.sse import StreamMeter
from ..dialects.translation import Translator
from ..dialects.translation.translated import AnswerTranslator, TranslatedRequest
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


class ReferencedObjects(Value, frozen=True, kw_only=True):
    """What is known of the stored objects that a request refers to.

    origins: of the known ones, those named by id before items of earlier answers
    tokens: their tokens, which count as input; None: unknown
    file_origins: of the known files, vector stores and containers that it uses
    target: origin of the object that the path names, None where none is named or known
    """

    origins: Sequence[ResponseOrigin] = ()
    tokens: int | None = 0
    file_origins: Sequence[ResponseOrigin] = ()
    target: ResponseOrigin | None = None


NO_REFERENCES = ReferencedObjects()


class IdentifiedRequest(Value, frozen=True, kw_only=True):
    """A request with its session, before any decision about it.

    request_id: prefix of reservation and ledger entry ids
    received_at: wall clock, seconds since the epoch
    references: the stored objects that the request refers to
    loop_state: what the loop guard observed, not yet compared with thresholds
    history_digest: digest of the history, where it identified the session; 0 otherwise
    """

    request_id: str
    received_at: float
    snapshot: Snapshot
    route: Route
    request: Request
    caller: Caller
    hints: HeaderHints
    session: Session
    references: ReferencedObjects = NO_REFERENCES
    loop_state: LoopState
    history_digest: int

    @property
    def is_lookup(self) -> bool:
        """Whether it is about an object of the caller and free: it reads, cancels or deletes that, for example.

        It costs nothing, and may end what does: no limit refuses it.
        """
        return is_lookup(self.request, self.references)


def is_lookup(request: Request, references: ReferencedObjects) -> bool:
    """Whether a request is about an object of the caller, named in its path, and free of charge."""
    return references.target is not None and request.passthrough is not None and request.passthrough.is_free


class StreamHold(Protocol):
    """The hold behind a stream; implemented by `reserve.ExtendableHold`.

    check_at_bytes: received bytes of the stream up to which the hold need not be checked
    """

    check_at_bytes: float

    def suffices(self, text_totals: tuple[int, int], bytes_received: int, read_bytes: int) -> bool:
        """Whether the hold need not grow yet, by an estimate of text bytes and events; sets `check_at_bytes`."""
        ...

    async def covers(self, output_tokens: int) -> bool:
        """Whether the stream may continue after `output_tokens`; may extend the hold."""
        ...


class DeferredWait(Value, frozen=True, kw_only=True):
    """The wait of a deferred request.

    seconds: from arrival to its start
    undeferred_grams_per_kwh: carbon intensity at arrival, gCO2e/kWh
    """

    seconds: float
    undeferred_grams_per_kwh: float


class RequestContext(Value, frozen=True, kw_only=True):
    """Everything decided about a request before its first attempt.

    request_id: prefix of reservation and ledger entry ids
    started_at: wall clock, seconds since the epoch; of a deferred request, when its wait ended
    started_monotonic: the same moment on the monotonic clock, seconds
    snapshot: configuration of one generation, kept to the end; a deferred request takes the one at its start
    translator: translates the request to other dialects, each once
    user: end user whose budgets apply, "" for none
    history_digest: digest of the history, where it identified the session; 0 otherwise
    operator_note: text that an operator adds to the request, "" for none
    target: tier target; None where the route leaves no choice
    deadline_ms: time from `started_at` within which the answer is wanted, None for no deadline
    deferral: how long the request may wait for lower carbon intensity; None: not at all
    deferred_wait: how long it waited; None: it did not
    object_origin: origin of the stored object that the path names, None where none is named or known
    is_lookup: it is about that object and free: no limit refuses it
    """

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
    object_origin: ResponseOrigin | None = None
    is_lookup: bool = False


class AttemptProgress(msgspec.Struct, kw_only=True):
    """State of one running attempt; starts as a cancellation would leave it.

    number: attempt number within the request, from 1
    dialed: False: nothing can have been spent
    upstream_status: status of the provider's response, or that its error body amounts to; 0 before it has arrived
    is_uncharged: the provider returned an error without usage, which no provider charges for
    asks_usage: a stream is asked to report its usage
    usage_request_refused: the attempt before was refused because it asked for usage
    first_byte_monotonic: when the status line arrived, monotonic seconds
    upstream_seconds: from dialing to the end of the answer, so far of this attempt
    earlier_upstream_seconds: the same of the request's earlier attempts, with the waits between them
    stream_meter: reads usage and text from the stream
    response_translator: translated the answer to the caller's dialect, None in the same dialect
    dropped_fields: what of a translated request its deployment is not sent
    usage: as the provider reported it for a whole answer, None if missing or unreadable
    billed_extras: fields of Usage beside tokens, of a whole answer without usage
    answer_id: the provider's id of the answer, "" for none
    answer_document: a whole answer that may name stored objects, None for any other
    object_ids: ids of what the provider stores of the answer, its own first
    is_probe: the deployment's circuit breaker is half-open, and this attempt tests it
    missing_dialect: dialect whose path this deployment did not have in the attempt before, "" for none
    stream_hold: the hold behind a stream, where it may have to grow
    billed_units: (unit, count) of what is billed other than tokens, where the answer reports it
    text_bytes: bytes of text in a whole answer without usage
    needs_verification: the answer is verified before it is returned (cascade)
    answer_fingerprint: how the answer begins, by which the next request finds its session
    tool_calls: (id, name, arguments) of calls in the answer, where the provider keeps the conversation
    parsed_answer: the answer as the verifier reads it, where `needs_verification`
    failed_checks: checks that the answer failed
    response_begun: bytes of the answer have been read or sent
    outcome, status, code: as the ledger records them
    """

    number: int
    attempt: Attempt
    dialed: bool = False
    upstream_status: int = 0
    is_uncharged: bool = False
    asks_usage: bool = False
    usage_request_refused: bool = False
    first_byte_monotonic: float | None = None
    upstream_seconds: float = 0.0
    earlier_upstream_seconds: float = 0.0
    stream_meter: StreamMeter | None = None
    response_translator: AnswerTranslator | None = None
    dropped_fields: tuple[str, ...] = ()
    usage: Usage | None = None
    billed_extras: Mapping[str, Any] = {}
    answer_id: str = ""
    answer_document: Mapping[str, Any] | None = None
    object_ids: tuple[str, ...] = ()
    is_probe: bool = False
    missing_dialect: str = ""
    reservation: Reservation | None = None
    stream_hold: StreamHold | None = None
    billed_units: tuple[str, int] | None = None
    text_bytes: int = 0
    needs_verification: bool = False
    answer_fingerprint: AnswerFingerprint = NO_FINGERPRINT
    tool_calls: tuple[tuple[Any, Any, Any], ...] = ()
    parsed_answer: ParsedAnswer | None = None
    failed_checks: tuple[str, ...] = ()
    response_begun: bool = False
    outcome: str = "cancelled"
    status: int = 499
    code: str = "client_closed_request"


def translated_request_of(context: RequestContext, progress: AttemptProgress) -> TranslatedRequest | None:
    """The translated request of an attempt; None in the caller's own dialect."""
    attempt = progress.attempt
    if attempt.upstream_dialect == context.request.dialect:
        return None
    translated = context.translator.translate(
        attempt.upstream_dialect, extended=attempt.deployment.dialect == "litellm"
    )
    assert isinstance(translated, TranslatedRequest), "candidates that need an impossible translation are excluded"
    return translated
