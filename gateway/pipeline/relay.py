"""Relay: sends one provider response to the caller, in the caller's dialect.

The stream meter reads the provider's bytes in the provider's dialect; where that is not the caller's, they are translated
after the meter. Error statuses and broken responses become a `FailedAttempt` as long as nothing has been sent.
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

# Well above any real answer (128k tokens are under 1 MB): a limit against runaway providers.
ANSWER_BYTES_MAX = 64 * 1024 * 1024
# Pass-through files may be larger than any answer (OpenAI's upload limit is 512 MB).
_FILE_BYTES_MAX = 1024 * 1024 * 1024
# Bytes read of an error body; enough for its message.
_ERROR_BYTES_MAX = 256 * 1024
# Exceptions that reading a document of an unexpected shape may raise.
_SHAPE_ERRORS = (AttributeError, TypeError, KeyError, ValueError, IndexError, RecursionError)
# Characters of a provider's message within our own error.
_ERROR_MESSAGE_CHARS_MAX = 2000
# Statuses by which a server says that a path does not exist.
_NO_SUCH_PATH_STATUSES = (404, 405, 501)


class FailedAttempt(Value, frozen=True, kw_only=True):
    """An attempt that did not serve the request.

    answer: the response to the caller if this was the last attempt
    retry_same: the same deployment may be tried again
    try_other: another deployment may be tried
    retry_after_seconds: pause that the provider asks for, None for none
    retry_dialect: retry the same deployment at once in this dialect, None otherwise
    """

    answer: CallerResponse
    retry_same: bool
    retry_other: bool
    retry_after_seconds: float | None
    retry_dialect: str | None = None


class Relay:
    """Relays provider responses; records each outcome in the circuit breakers."""

    def __init__(self, circuit_breakers: CircuitBreakers) -> None:
        self._circuit_breakers = circuit_breakers

    async def relay_response(
        self,
        context: RequestContext,
        progress: AttemptProgress,
        response: UpstreamResponse,
        writer: ResponseWriter,
        *,
        now: float,
    ) -> CallerResponse | FailedAttempt:
        """Relay a response whose status line has arrived.

        Raises UpstreamError and CallerDisconnected.
        """
        request, attempt = context.request, progress.attempt
        provider = PROVIDERS[attempt.deployment.dialect]
        if not 200 <= response.status < 300:
            return await self._relay_error_status(context, progress, response, now=now)
        headers = provider.returned_headers(response.headers)
        content_type = response.headers.get("Content-Type", "")
        if request.stream and "event-stream" in content_type:
            return await self._relay_stream(context, progress, response, headers, writer)
        if request.passthrough is not None and content_type.partition(";")[0].strip().lower() != "application/json":
            return await self._relay_file(context, progress, response, headers, writer)
        body = await response.read(ANSWER_BYTES_MAX)
        progress.response_begun, progress.text_bytes = True, len(body)
        document = _json_object(body)
        if document is None and request.passthrough is None:
            raise BrokenResponse("Provider response is not JSON.")
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
            raise BrokenResponse("Provider did not stream its response.")
        if translated is not None:
            headers["content-type"] = "application/json"
            translator = progress.response_translator = _response_translator(context, progress, translated)
            body = _translated_body(translator, document)
        self._mark_completed(progress, response.status)
        return CallerResponse(status=response.status, headers=headers, body=body)

    async def _relay_stream(  # noqa: C901 - one loop over a stream and the ways that it ends
        self,
        context: RequestContext,
        progress: AttemptProgress,
        response: UpstreamResponse,
        headers: Mapping[str, str],
        writer: ResponseWriter,
    ) -> CallerResponse:
        """Relay a stream chunk by chunk; no retry after `begin`.

        Awaiting the caller's socket is the backpressure.
        """
        headers = {**headers, **response_headers.attempt_headers(context, progress)}
        meter = progress.stream_meter = DIALECTS[progress.attempt.upstream_dialect].stream_meter(context.request)
        translation = self._translated_stream(context, progress)
        if translation is not None:
            headers["content-type"] = "text/event-stream; charset=utf-8"
        begun, bytes_received, stream_hold = False, 0, progress.stream_hold
        meter.may_end_early = stream_hold is not None
        if context.history_digest and progress.attempt.upstream_dialect != "responses":
            meter.fingerprint_chars = (
                answer_fingerprint.FINGERPRINT_CHARS_MAX
                if context.session.history_is_shared
                else answer_fingerprint.FINGERPRINT_CHARS_DEFAULT
            )
        while data := await response.read_chunk():
            bytes_received += len(data)
            if bytes_received > ANSWER_BYTES_MAX:
                raise BrokenResponse(f"Provider response exceeds {ANSWER_BYTES_MAX // 1024**2} MiB.")
            out = meter.feed(data)
            if meter.error is not None and not begun and not meter.text_totals()[0]:
                # Nothing has been sent yet: another deployment may serve.
                break
            if translation is not None:
                out = _translated_block(translation, out)
            if out:
                if not begun:
                    self._circuit_breakers.record_success(progress.attempt.deployment.name)
                    await writer.begin(response.status, headers)
                    begun = progress.response_begun = True
                await writer.write(out)
            if stream_hold is not None and begun and not meter.done:
                output_tokens = token_estimate.output_tokens(*meter.text_totals())
                if not await stream_hold.covers(output_tokens):
                    return await self._end_at_hold(context, progress, meter, translation, output_tokens, writer)
            if meter.done or (translation is not None and meter.error is not None):
                # The caller has the complete answer and may hang up: no `await` until the attempt is settled.
                break
        rest = meter.finish()
        if meter.error is not None and (translation is not None or not begun):
            # A translated stream ends with our own error event.
            raise BrokenResponse(f"Provider stream ended with an error: {_error_message(meter.error)}")
        if translation is not None:
            rest = _translated_block(translation, rest, end=meter.is_complete)
        if not meter.is_complete and meter.error is None:
            raise BrokenResponse("Provider stream ended before the response was complete.")
        if not begun:
            await writer.begin(response.status, headers)
            progress.response_begun = True
        if rest:
            await writer.write(rest)
        self._mark_completed(progress, response.status)
        progress.answer_id, progress.answer_fingerprint, progress.tool_calls = (
            meter.id,
            meter.fingerprint,
            meter.tool_calls,
        )
        if meter.error is not None:
            progress.outcome, progress.code = "cut", "upstream_error"
        return CallerResponse(status=response.status, headers=headers, already_sent=True)

    async def _end_at_hold(
        self,
        context: RequestContext,
        progress: AttemptProgress,
        meter: StreamMeter,
        translation: TranslatedStream | None,
        output_tokens: int,
        writer: ResponseWriter,
    ) -> CallerResponse:
        """End a stream whose hold is exhausted, as if it had reached its output limit."""
        rest = meter.end_early(context.features.input_tokens, output_tokens)
        if translation is not None:
            rest = _translated_block(translation, rest, end=True)
        if rest:
            await writer.write(rest)
        self._mark_completed(progress, 200)
        progress.code = "hold_exhausted"
        return CallerResponse(status=200, headers={}, already_sent=True)

    async def _relay_file(
        self,
        context: RequestContext,
        progress: AttemptProgress,
        response: UpstreamResponse,
        headers: Mapping[str, str],
        writer: ResponseWriter,
    ) -> CallerResponse:
        """Relay a pass-through response that is not JSON: audio, images, files."""
        headers = {**headers, **response_headers.attempt_headers(context, progress)}
        progress.stream_meter = passthrough.PassThroughStreamMeter()
        bytes_received = 0
        await writer.begin(response.status, headers)
        progress.response_begun = True
        while data := await response.read_chunk():
            bytes_received += len(data)
            if bytes_received > _FILE_BYTES_MAX:
                raise BrokenResponse(
                    f"Provider file exceeds the pass-through limit of {_FILE_BYTES_MAX // 1024**2} MiB."
                )
            await writer.write(data)
        self._mark_completed(progress, response.status)
        return CallerResponse(status=response.status, headers=headers, already_sent=True)

    def _translated_stream(self, context: RequestContext, progress: AttemptProgress) -> TranslatedStream | None:
        translated = translated_request_of(context, progress)
        if translated is None:
            return None
        translator = progress.response_translator = _response_translator(context, progress, translated)
        return TranslatedStream(translator, chat=context.request.dialect == "chat")

    async def _relay_error_status(
        self, context: RequestContext, progress: AttemptProgress, response: UpstreamResponse, *, now: float
    ) -> CallerResponse | FailedAttempt:
        """Relay an error status, or report a failed attempt.

        No provider charges for an error status.
        """
        deployment = progress.attempt.deployment
        provider = PROVIDERS[deployment.dialect]
        progress.got_error_status = True
        body = await _read_prefix(response, _ERROR_BYTES_MAX)
        failure = provider.failure_of(response.status, body)
        is_caller_error = not failure.retry_same and not failure.try_other
        progress.outcome = "rejected" if is_caller_error else "upstream_error"
        progress.status, progress.code = response.status, failure.code
        retry_after = _retry_after_seconds(response.headers)
        retry_dialect = self._other_dialect(context, progress, response.status, body)
        self._update_circuit_breaker(progress, failure, response.status, retry_after, now=now)
        answer = _error_answer(context, progress, failure, response, body)
        progress.status = answer.status
        if retry_dialect is not None:
            progress.outcome, progress.code = "upstream_error", "dialect_not_supported"
        elif is_caller_error:
            return answer
        return FailedAttempt(
            answer=answer,
            retry_same=failure.retry_same,
            retry_other=failure.try_other,
            retry_after_seconds=retry_after,
            retry_dialect=retry_dialect,
        )

    def _update_circuit_breaker(
        self, progress: AttemptProgress, failure: ProviderFailure, status: int, retry_after: float | None, *, now: float
    ) -> None:
        """Record an error status in the circuit breaker of its deployment."""
        name, is_probe = progress.attempt.deployment.name, progress.is_probe
        if status == 429 and failure.retry_same:
            if is_probe:
                self._circuit_breakers.cancel_probe(name, now=now)
            self._circuit_breakers.record_rate_limit(name, now=now, retry_after=retry_after)
        elif failure.retry_same:
            self._circuit_breakers.record_failure(name, now=now)
        elif not failure.try_other:
            self._circuit_breakers.record_success(name)
        elif is_probe:
            self._circuit_breakers.cancel_probe(name, now=now)

    def _other_dialect(
        self, context: RequestContext, progress: AttemptProgress, status: int, body: bytes
    ) -> str | None:
        """The dialect to retry in, where the server lacks the path of this one."""
        deployment, dialect = progress.attempt.deployment, progress.attempt.upstream_dialect
        if (
            dialect not in deployment.unconfirmed_dialects
            or status not in _NO_SUCH_PATH_STATUSES
            or b"model_not_found" in body
        ):
            return None
        other = upstream_dialect_of(
            context.request.dialect, [candidate for candidate in deployment.dialects if candidate != dialect]
        )
        if other is None or isinstance(context.translator.translate(other, extended=False), NotTranslatable):
            return None
        return other

    async def handle_upstream_error(
        self,
        context: RequestContext,
        progress: AttemptProgress,
        error: UpstreamError,
        writer: ResponseWriter,
        *,
        now: float,
    ) -> CallerResponse | FailedAttempt:
        """Handle a call without a usable response.

        Before the first byte it is a failed attempt; after it, the stream ends with an error event.
        """
        begun = progress.stream_meter is not None and progress.response_begun
        progress.outcome = "cut" if begun else "upstream_error"
        progress.status, progress.code = error.status, error.code
        if isinstance(error, Unreachable):
            progress.dialed = False
        if not isinstance(error, UnreadableResponse):
            self._circuit_breakers.record_failure(progress.attempt.deployment.name, now=now)
        dialect = DIALECTS[context.request.dialect]
        if begun:
            await writer.write(dialect.error_event(error))
            return CallerResponse(status=200, headers={}, already_sent=True)
        retry_same = error.retryable and not isinstance(error, UpstreamTimeout)
        return FailedAttempt(
            answer=dialect.error_response(error), retry_same=retry_same, retry_other=True, retry_after_seconds=None
        )

    def _mark_completed(self, progress: AttemptProgress, status: int) -> None:
        progress.outcome, progress.status, progress.code = "completed", status, ""
        name, dialect = progress.attempt.deployment.name, progress.attempt.upstream_dialect
        self._circuit_breakers.record_success(name)
        if progress.missing_dialect:
            self._circuit_breakers.record_missing_dialect(
                name, progress.missing_dialect, now=progress.first_byte_monotonic or 0.0
            )
        elif dialect in progress.attempt.deployment.unconfirmed_dialects:
            self._circuit_breakers.record_dialect(name, dialect)


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


def _response_translator(
    context: RequestContext, progress: AttemptProgress, translated: TranslatedRequest
) -> AnswerTranslator:
    return context.translator.answer_translator(
        translated,
        progress.attempt.upstream_dialect,
        answer_id=f"{context.request_id}{progress.number}",
        created=int(context.started_at),
    )


def _translated_body(translator: AnswerTranslator, document: dict[str, Any]) -> bytes:
    """A whole answer in the caller's dialect. Raises UnreadableResponse."""
    try:
        return orjson.dumps(translator.translate_document(document))
    except _SHAPE_ERRORS as error:
        raise UnreadableResponse("Provider response does not match its dialect.") from error


def _text_bytes(dialect: str, document: dict[str, Any], body: bytes) -> int:
    """Bytes of text in an answer without usage; the whole body if unreadable."""
    try:
        return DIALECTS[dialect].answer_text_bytes(document)
    except _SHAPE_ERRORS:
        return len(body)


def _translated_block(translation: TranslatedStream, block: bytes, *, end: bool = False) -> bytes:
    """A block of a stream in the caller's dialect. Raises UnreadableResponse."""
    try:
        return translation.feed(block) + (translation.finish() if end else b"")
    except _SHAPE_ERRORS as error:
        raise UnreadableResponse("Provider stream does not match its dialect.") from error


def _error_answer(
    context: RequestContext,
    progress: AttemptProgress,
    failure: ProviderFailure,
    response: UpstreamResponse,
    body: bytes,
) -> CallerResponse:
    """The caller's response to a provider error.

    The provider's bytes in the same dialect, else its message in an error of the caller's dialect.
    """
    provider, dialect = PROVIDERS[progress.attempt.deployment.dialect], DIALECTS[context.request.dialect]
    if failure.hides_message:
        error: PenstockError = UpstreamError(f"Provider returned status {response.status}.", code=failure.code)
        return dialect.error_response(error)
    headers = provider.returned_headers(response.headers)
    if progress.attempt.upstream_dialect == context.request.dialect:
        return CallerResponse(status=response.status, headers=headers, body=body)
    error = PenstockError(
        failure.message[:_ERROR_MESSAGE_CHARS_MAX] or f"Provider returned status {response.status}.",
        code=failure.code,
    )
    error.status = response.status
    answer = dialect.error_response(error)
    if "retry-after" in headers:
        answer = CallerResponse(
            status=answer.status, headers={"content-type": "application/json", "retry-after": headers["retry-after"]},
            body=answer.body,
        )  # fmt: skip
    return answer


async def _read_prefix(response: UpstreamResponse, limit: int) -> bytes:
    """The first `limit` bytes or so of an error body."""
    parts, size = [], 0
    while size < limit and (data := await response.read_chunk()):
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
    """The message of a provider's error event."""
    message = error.get("message") if isinstance(error, dict) else error
    return str(message)[:500]


def _retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """The pause of Retry-After-Ms, else Retry-After, in seconds.

    Dates and out-of-range values count as absent.
    """
    for name, unit in (("Retry-After-Ms", 0.001), ("Retry-After", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        if 0 <= seconds < 86_400:
            return seconds
    return None
