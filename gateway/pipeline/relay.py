"""One provider's answer on its way to the caller: whole, streamed, rejected or broken, in the caller's dialect.

The meter reads what the provider sends, in the dialect that it speaks; where that is not the caller's, what the meter
lets through is crossed back before it is sent.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from ..accounting import token_estimate
from ..dialects import DIALECTS, answer_fingerprint, passthrough
from ..dialects.parsed_answer import parse_answer
from ..dialects.sse import StreamMeter
from ..dialects.translation import TranslatedStream, upstream_dialect_of
from ..dialects.translation.translated import AnswerTranslator, TranslatedRequest
from ..providers import PROVIDERS
from ..providers.upstream_call import ProviderFailure
from ..routing.circuit_breaker import CircuitBreakers
from ..values.base import Value
from ..values.caller_response import CallerResponse
from ..values.errors import (
    BrokenResponse,
    NotTranslatable,
    PenstockError,
    Unreachable,
    UnreadableResponse,
    UpstreamError,
    UpstreamTimeout,
)
from . import headers as response_headers
from .context import AttemptProgress, RequestContext
from .ports import ResponseWriter, UpstreamResponse

# More than any answer of the field (a 128k-token answer is under 1 MB); past it the provider is flooding us.
ANSWER_BYTES_MAX = 64 * 1024 * 1024
# Files that pass through may be larger than any answer (OpenAI's upload limit is 512 MB).
_FILE_BYTES_MAX = 1024 * 1024 * 1024
# Of a provider's error body; enough for its message.
_ERROR_BYTES_MAX = 256 * 1024
# What reading a document of the wrong shape may raise.
_SHAPE_ERRORS = (AttributeError, TypeError, KeyError, ValueError, IndexError, RecursionError)
# Of a provider's words within an error of ours.
_ERROR_MESSAGE_CHARS_MAX = 2000
# How a server says that a path does not exist there.
_NO_SUCH_PATH_STATUSES = (404, 405, 501)


class FailedAttempt(Value, frozen=True, kw_only=True):
    """An attempt that did not serve: what to tell the caller if it was the last, and what may be tried.

    `speech`: the same deployment should be spoken to in this dialect instead, at once.
    """

    answer: CallerResponse
    retry_same: bool
    try_other: bool
    retry_after_seconds: float | None
    retry_dialect: str | None = None


class Relay:
    """Brings answers back. Knows the book of health, for an answer tells how its deployment stands."""

    def __init__(self, circuit_breakers: CircuitBreakers) -> None:
        self._circuit_breakers = circuit_breakers

    async def relay_response(
        self,
        context: RequestContext,
        progress: AttemptProgress,
        answering: UpstreamResponse,
        reply: ResponseWriter,
        *,
        now: float,
    ) -> CallerResponse | FailedAttempt:
        """The provider's status line is here."""
        request, attempt = context.request, progress.attempt
        provider = PROVIDERS[attempt.deployment.dialect]
        if not 200 <= answering.status < 300:
            return await self._relay_error_status(context, progress, answering, now=now)
        headers = provider.returned_headers(answering.headers)
        kind = answering.headers.get("Content-Type", "")
        if request.stream and "event-stream" in kind:
            return await self._relay_stream(context, progress, answering, headers, reply)
        if request.passthrough is not None and kind.partition(";")[0].strip().lower() != "application/json":
            return await self._relay_file(context, progress, answering, headers, reply)
        body = await answering.read(ANSWER_BYTES_MAX)
        progress.response_begun, progress.text_bytes = True, len(body)
        document = _json_object(body)
        if document is None and request.passthrough is None:
            raise BrokenResponse("The provider's answer is not JSON.")
        document = document or {}
        usage = progress.usage = provider.usage_of(document.get("usage"))
        progress.text_bytes = _text_bytes(attempt.upstream_dialect, document, body) if usage is None else 0
        progress.answer_id = str(document.get("id") or "")
        progress.answer_fingerprint = (
            answer_fingerprint.fingerprint_of(document) if context.history_digest else progress.answer_fingerprint
        )
        progress.tool_calls = (
            answer_fingerprint.tool_calls_of(document) if attempt.upstream_dialect == "responses" else ()
        )
        if progress.needs_verification:
            progress.parsed_answer = parse_answer(document)
        if request.passthrough is not None:
            progress.billed_units = passthrough.billed_units_of(document)
        translated = translated_request_of(context, progress)
        if translated is not None and request.stream:
            raise BrokenResponse("The provider did not stream its answer.")
        if translated is not None:
            headers["content-type"] = "application/json"
            back = progress.response_translator = _response_translator(context, progress, translated)
            body = _translated_body(back, document)
        self._mark_completed(progress, answering.status)
        return CallerResponse(status=answering.status, headers=headers, body=body)

    async def _relay_stream(
        self,
        context: RequestContext,
        progress: AttemptProgress,
        answering: UpstreamResponse,
        headers: Mapping[str, str],
        reply: ResponseWriter,
    ) -> CallerResponse:
        """Forward chunk by chunk; backpressure is the await on the caller's socket. No second attempt after `begin`."""
        headers = {**headers, **response_headers.attempt_headers(context, progress)}
        meter = progress.stream_meter = DIALECTS[progress.attempt.upstream_dialect].stream_meter(context.request)
        crossed = self._translated_stream(context, progress)
        if crossed is not None:
            headers["content-type"] = "text/event-stream; charset=utf-8"
        begun, received, watch = False, 0, progress.stream_hold
        meter.may_end_early = watch is not None
        if context.history_digest and progress.attempt.upstream_dialect != "responses":
            meter.fingerprint_chars = (
                answer_fingerprint.FINGERPRINT_CHARS_MAX
                if context.session.history_is_shared
                else answer_fingerprint.FINGERPRINT_CHARS_DEFAULT
            )
        while data := await answering.read_chunk():
            received += len(data)
            if received > ANSWER_BYTES_MAX:
                raise BrokenResponse("The provider's answer is longer than any answer.")
            out = meter.feed(data)
            if meter.error is not None and not begun and not meter.text_totals()[0]:
                # Nothing was said yet: another deployment may do better.
                break
            if crossed is not None:
                out = _translated_block(crossed, out)
            if out:
                if not begun:
                    self._circuit_breakers.record_success(progress.attempt.deployment.name)
                    await reply.begin(answering.status, headers)
                    begun = progress.response_begun = True
                await reply.write(out)
            if watch is not None and begun and not meter.done:
                seen = token_estimate.output_tokens(*meter.text_totals())
                if not await watch.covers(seen):
                    return await self._end_at_hold(context, progress, meter, crossed, seen, reply)
            if meter.done or (crossed is not None and meter.error is not None):
                # The caller has its end and may hang up now: nothing may be awaited any more before this is settled.
                break
        rest = meter.finish()
        if meter.error is not None and (crossed is not None or not begun):
            # A crossed stream ends in an event of our own.
            raise BrokenResponse(f"The provider ended its answer with an error: {_error_message(meter.error)}")
        if crossed is not None:
            rest = _translated_block(crossed, rest, end=meter.is_complete)
        if not meter.is_complete and meter.error is None:
            raise BrokenResponse("The provider ended the stream before the answer was complete.")
        if not begun:
            await reply.begin(answering.status, headers)
            progress.response_begun = True
        if rest:
            await reply.write(rest)
        self._mark_completed(progress, answering.status)
        progress.answer_id, progress.answer_fingerprint, progress.tool_calls = (
            meter.id,
            meter.fingerprint,
            meter.tool_calls,
        )
        if meter.error is not None:
            progress.outcome, progress.code = "cut", "upstream_error"
        return CallerResponse(status=answering.status, headers=headers, already_sent=True)

    async def _end_at_hold(
        self,
        context: RequestContext,
        progress: AttemptProgress,
        meter: StreamMeter,
        crossed: TranslatedStream | None,
        seen: int,
        reply: ResponseWriter,
    ) -> CallerResponse:
        """End a stream that no budget lets go on, as though its output limit had been reached."""
        rest = meter.end_early(context.features.input_tokens, seen)
        if crossed is not None:
            rest = _translated_block(crossed, rest, end=True)
        if rest:
            await reply.write(rest)
        self._mark_completed(progress, 200)
        progress.code = "hold_used_up"
        return CallerResponse(status=200, headers={}, already_sent=True)

    async def _relay_file(
        self,
        context: RequestContext,
        progress: AttemptProgress,
        answering: UpstreamResponse,
        headers: Mapping[str, str],
        reply: ResponseWriter,
    ) -> CallerResponse:
        """Something that is no JSON passes through as it comes: sound, pictures, files."""
        headers = {**headers, **response_headers.attempt_headers(context, progress)}
        progress.stream_meter = passthrough.PassThroughStreamMeter()
        received = 0
        await reply.begin(answering.status, headers)
        progress.response_begun = True
        while data := await answering.read_chunk():
            received += len(data)
            if received > _FILE_BYTES_MAX:
                raise BrokenResponse("The provider's file is larger than what passes through here.")
            await reply.write(data)
        self._mark_completed(progress, answering.status)
        return CallerResponse(status=answering.status, headers=headers, already_sent=True)

    def _translated_stream(self, context: RequestContext, progress: AttemptProgress) -> TranslatedStream | None:
        translated = translated_request_of(context, progress)
        if translated is None:
            return None
        back = progress.response_translator = _response_translator(context, progress, translated)
        return TranslatedStream(back, chat=context.request.dialect == "chat")

    async def _relay_error_status(
        self, context: RequestContext, progress: AttemptProgress, answering: UpstreamResponse, *, now: float
    ) -> CallerResponse | FailedAttempt:
        """The provider answered with an error status; none of them charges for that."""
        deployment = progress.attempt.deployment
        provider = PROVIDERS[deployment.dialect]
        progress.got_error_status = True
        body = await _read_prefix(answering, _ERROR_BYTES_MAX)
        failure = provider.failure_of(answering.status, body)
        passed = not failure.retry_same and not failure.try_other
        progress.outcome = "rejected" if passed else "upstream_error"
        progress.status, progress.code = answering.status, failure.code
        retry_after = _retry_after_seconds(answering.headers)
        speech = self._fallback_dialect(context, progress, answering.status, body)
        self._update_circuit_breaker(progress, failure, answering.status, retry_after, now=now)
        answer = _error_answer(context, progress, failure, answering, body)
        progress.status = answer.status
        if speech is not None:
            progress.outcome, progress.code = "upstream_error", "dialect_not_spoken"
        elif passed:
            return answer
        return FailedAttempt(
            answer=answer,
            retry_same=failure.retry_same,
            try_other=failure.try_other,
            retry_after_seconds=retry_after,
            retry_dialect=speech,
        )

    def _update_circuit_breaker(
        self, progress: AttemptProgress, failure: ProviderFailure, status: int, retry_after: float | None, *, now: float
    ) -> None:
        """What an error status says of its deployment."""
        name, probe = progress.attempt.deployment.name, progress.is_probe
        if status == 429 and failure.retry_same:
            if probe:
                self._circuit_breakers.cancel_probe(name, now=now)
            self._circuit_breakers.record_rate_limit(name, now=now, retry_after=retry_after)
        elif failure.retry_same:
            self._circuit_breakers.record_failure(name, now=now)
        elif not failure.try_other:
            self._circuit_breakers.record_success(name)
        elif probe:
            self._circuit_breakers.cancel_probe(name, now=now)

    def _fallback_dialect(
        self, context: RequestContext, progress: AttemptProgress, status: int, body: bytes
    ) -> str | None:
        """The dialect to go on in, where the server turns out not to have the path of the one that was tried."""
        deployment, speech = progress.attempt.deployment, progress.attempt.upstream_dialect
        if (
            speech not in deployment.unconfirmed_dialects
            or status not in _NO_SUCH_PATH_STATUSES
            or b"model_not_found" in body
        ):
            return None
        other = upstream_dialect_of(context.request.dialect, [one for one in deployment.dialects if one != speech])
        if other is None or isinstance(context.translator.translate(other, extended=False), NotTranslatable):
            return None
        return other

    async def handle_upstream_error(
        self,
        context: RequestContext,
        progress: AttemptProgress,
        error: UpstreamError,
        reply: ResponseWriter,
        *,
        now: float,
    ) -> CallerResponse | FailedAttempt:
        """No usable answer. Before the first byte another attempt may follow; after it, the stream ends with an error."""
        begun = progress.stream_meter is not None and progress.response_begun
        progress.outcome = "cut" if begun else "upstream_error"
        progress.status, progress.code = error.status, error.code
        if isinstance(error, Unreachable):
            progress.dialled = False
        if not isinstance(error, UnreadableResponse):
            self._circuit_breakers.record_failure(progress.attempt.deployment.name, now=now)
        dialect = DIALECTS[context.request.dialect]
        if begun:
            await reply.write(dialect.error_event(error))
            return CallerResponse(status=200, headers={}, already_sent=True)
        same = error.retryable and not isinstance(error, UpstreamTimeout)
        return FailedAttempt(
            answer=dialect.error_answer(error), retry_same=same, try_other=True, retry_after_seconds=None
        )

    def _mark_completed(self, progress: AttemptProgress, status: int) -> None:
        progress.outcome, progress.status, progress.code = "completed", status, ""
        name, speech = progress.attempt.deployment.name, progress.attempt.upstream_dialect
        self._circuit_breakers.record_success(name)
        if progress.missing_dialect:
            self._circuit_breakers.record_missing_dialect(
                name, progress.missing_dialect, now=progress.first_byte_monotonic or 0.0
            )
        elif speech in progress.attempt.deployment.unconfirmed_dialects:
            self._circuit_breakers.record_dialect(name, speech)


def translated_request_of(context: RequestContext, progress: AttemptProgress) -> TranslatedRequest | None:
    """What was sent instead of the caller's own words; None where these were sent."""
    attempt = progress.attempt
    if attempt.upstream_dialect == context.request.dialect:
        return None
    translated = context.translator.translate(
        attempt.upstream_dialect, extended=attempt.deployment.dialect == "litellm"
    )
    assert isinstance(translated, TranslatedRequest), "what cannot be carried was struck"
    return translated


def _response_translator(
    context: RequestContext, progress: AttemptProgress, translated: TranslatedRequest
) -> AnswerTranslator:
    return context.translator.answer_translator(
        translated,
        progress.attempt.upstream_dialect,
        answer_id=f"{context.request_id}{progress.number}",
        created=int(context.started_at),
    )


def _translated_body(back: AnswerTranslator, document: dict[str, Any]) -> bytes:
    """The whole answer in the caller's dialect. Raises BrokenAnswer where the provider's has no such shape."""
    try:
        return orjson.dumps(back.translate_document(document))
    except _SHAPE_ERRORS as error:
        raise UnreadableResponse("The provider's answer does not have the shape of its dialect.") from error


def _text_bytes(speech: str, document: dict[str, Any], body: bytes) -> int:
    """Bytes of text of an answer that nobody counted; all of it where its shape cannot be read."""
    try:
        return DIALECTS[speech].answer_text_bytes(document)
    except _SHAPE_ERRORS:
        return len(body)


def _translated_block(crossed: TranslatedStream, block: bytes, *, end: bool = False) -> bytes:
    """What a block, and the end, become in the caller's dialect. Raises UnreadableAnswer where it has no such shape."""
    try:
        return crossed.feed(block) + (crossed.finish() if end else b"")
    except _SHAPE_ERRORS as error:
        raise UnreadableResponse("The provider's stream does not have the shape of its dialect.") from error


def _error_answer(
    context: RequestContext,
    progress: AttemptProgress,
    failure: ProviderFailure,
    answering: UpstreamResponse,
    body: bytes,
) -> CallerResponse:
    """What the caller hears of a provider's error: its own bytes in the same dialect, else its words in the caller's."""
    provider, dialect = PROVIDERS[progress.attempt.deployment.dialect], DIALECTS[context.request.dialect]
    if failure.hides_message:
        error: PenstockError = UpstreamError(
            f"The provider answered with status {answering.status}.", code=failure.code
        )
        return dialect.error_answer(error)
    headers = provider.returned_headers(answering.headers)
    if progress.attempt.upstream_dialect == context.request.dialect:
        return CallerResponse(status=answering.status, headers=headers, body=body)
    error = PenstockError(
        failure.message[:_ERROR_MESSAGE_CHARS_MAX] or f"The provider answered with status {answering.status}.",
        code=failure.code,
    )
    error.status = answering.status
    answer = dialect.error_answer(error)
    if "retry-after" in headers:
        answer = CallerResponse(
            status=answer.status, headers={"content-type": "application/json", "retry-after": headers["retry-after"]},
            body=answer.body,
        )  # fmt: skip
    return answer


async def _read_prefix(answering: UpstreamResponse, limit: int) -> bytes:
    """The beginning of an error body; nobody needs the rest."""
    parts, size = [], 0
    while size < limit and (data := await answering.read_chunk()):
        parts.append(data)
        size += len(data)
    return b"".join(parts)


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


def _error_message(error: Any) -> str:
    """The provider's own words for what went wrong."""
    message = error.get("message") if isinstance(error, dict) else error
    return str(message)[:500]


def _retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """The pause in seconds that a provider asks for: Retry-After-Ms, else Retry-After; dates and nonsense count as not
    given."""
    for name, unit in (("Retry-After-Ms", 0.001), ("Retry-After", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        if 0 <= seconds < 86_400:
            return seconds
    return None
