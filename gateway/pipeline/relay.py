"""Relay: sends one provider response to the caller, in the caller's dialect.

The stream meter reads the provider's bytes in the provider's dialect; where that is not the caller's, they are translated
after the meter. Error statuses and broken responses become a `FailedAttempt` as long as nothing has been sent.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from msgspec import structs

from ..dialects import DIALECTS, answer_fingerprint, billed_units, lenient_json, passthrough, responses
from ..dialects.parsed_answer import parse_answer
from ..dialects.translation import TranslatedStream
from ..dialects.translation.translated import AnswerTranslator, TranslatedRequest
from ..dialects.translation.usage_objects import usage_payload
from ..providers import PROVIDERS
from ..providers.error_body import words_of
from ..providers.failure import ProviderFailure, status_of_error
from ..providers.retry_after import retry_after_seconds
from ..routing.circuit_breaker import CircuitBreakers
from ..values.caller_response import CallerResponse
from ..values.errors import (
    BrokenResponse,
    Unreachable,
    UnreadableResponse,
    UpstreamError,
    UpstreamTimeout,
)
from ..values.usage import NO_USAGE
from . import headers as response_headers
from . import settle
from .context import AttemptProgress, RequestContext, translated_request_of
from .failed_attempt import (
    FailedAttempt,
    error_answer,
    other_dialect,
    read_failure,
    refuses_usage_request,
)
from .ports import Clock, ResponseWriter, UpstreamResponse
from .relay_stream import ANSWER_BYTES_MAX, SHAPE_ERRORS, StreamRelay
from .replayed_response import ReplayedResponse

# Pass-through files may be larger than any answer (OpenAI's upload limit is 512 MB).
_FILE_BYTES_MAX = 1024 * 1024 * 1024
# Bytes read of an error body; enough for its message.
_ERROR_BYTES_MAX = 256 * 1024


class _ErrorReply(NamedTuple):
    """An error as the provider gave it; body: None where it was part of an answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes | None


class Relay:
    """Relays provider responses; records each outcome in the circuit breakers.

    record_start: receives the id of a background response once its stream names it
    """

    def __init__(
        self,
        circuit_breakers: CircuitBreakers,
        clock: Clock,
        record_start: Callable[[RequestContext, AttemptProgress, str], None],
    ) -> None:
        self._circuit_breakers = circuit_breakers
        self._clock = clock
        self._record_start = record_start

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
            return await self._relay_stream(context, progress, response, headers, writer, now=now)
        if request.passthrough is not None and content_type.partition(";")[0].strip().lower() != "application/json":
            return await self._relay_file(context, progress, response, headers, writer)
        if request.stream:
            response = await ReplayedResponse.peek(response)
            if response.begins_stream:
                # A stream under another label.
                headers["content-type"] = "text/event-stream; charset=utf-8"
                return await self._relay_stream(context, progress, response, headers, writer, now=now)
        return await self._relay_document(context, progress, response, headers, writer, now=now)

    async def _relay_document(
        self,
        context: RequestContext,
        progress: AttemptProgress,
        response: UpstreamResponse,
        headers: dict[str, str],
        writer: ResponseWriter,
        *,
        now: float,
    ) -> CallerResponse | FailedAttempt:
        """Relay an answer that is one document."""
        request, attempt = context.request, progress.attempt
        body = await response.read(ANSWER_BYTES_MAX)
        progress.response_begun, progress.text_bytes = True, len(body)
        document = _json_object(body)
        if document is None and request.passthrough is None:
            # A page or a text is no answer that a provider could charge for; an object that broke off may be one.
            progress.is_uncharged = not body.lstrip().startswith(b"{")
            raise BrokenResponse("Provider response is not JSON.")
        document = document or {}
        provider = PROVIDERS[attempt.deployment.dialect]
        usage = progress.usage = provider.usage_of(document)
        failed = DIALECTS[attempt.upstream_dialect].failed_answer(document)
        if failed is not None:
            progress.is_uncharged, progress.text_bytes = usage is None, 0
            return self._failed_answer(context, progress, failed, response.headers, now=now)
        events = _answer_events(attempt.upstream_dialect, document) if request.stream else None
        if events is not None:
            # The caller asked for a stream, and reads nothing else.
            progress.usage, progress.response_begun = None, False
            headers["content-type"] = "text/event-stream; charset=utf-8"
            stream = ReplayedResponse(response, events)
            return await self._relay_stream(context, progress, stream, headers, writer, now=now)
        if usage is None:
            progress.billed_extras = provider.billed_extras_of(document)
        is_counted = usage is not None and usage.exact and (usage.has_output or usage is NO_USAGE)
        progress.text_bytes = 0 if is_counted else _text_bytes(attempt.upstream_dialect, document, body)
        progress.answer_id, progress.answer_document = str(document.get("id") or ""), document
        progress.answer_fingerprint = (
            answer_fingerprint.fingerprint_of(document) if context.history_digest else progress.answer_fingerprint
        )
        progress.tool_calls = (
            answer_fingerprint.tool_calls_of(document) if attempt.upstream_dialect == "responses" else ()
        )
        if progress.needs_verification:
            progress.parsed_answer = parse_answer(document)
        if request.passthrough is not None:
            progress.billed_units = billed_units.units_of(document, request.passthrough.billed_units_max)
        translated = translated_request_of(context, progress)
        if translated is not None and request.stream:
            raise BrokenResponse("Provider did not stream its response.")
        if translated is not None:
            headers["content-type"] = "application/json"
            translator = progress.response_translator = _response_translator(context, progress, translated)
            estimated = _estimated_usage(context, progress)
            body = _translated_body(
                translator, document if estimated is None else {**document, "usage": estimated["usage"]}
            )
        self._mark_completed(progress, response.status)
        return CallerResponse(status=response.status, headers=headers, body=body)

    async def _relay_stream(
        self,
        context: RequestContext,
        progress: AttemptProgress,
        response: UpstreamResponse,
        headers: Mapping[str, str],
        writer: ResponseWriter,
        *,
        now: float,
    ) -> CallerResponse | FailedAttempt:
        """Relay a stream; a failure before the answer begins is a failed attempt."""
        headers = {**headers, **response_headers.attempt_headers(context, progress)}
        meter = progress.stream_meter = DIALECTS[progress.attempt.upstream_dialect].stream_meter(context.request)
        translation = self._translated_stream(context, progress)
        if translation is not None:
            headers["content-type"] = "text/event-stream; charset=utf-8"
        meter.may_end_early = progress.stream_hold is not None
        if context.history_digest and progress.attempt.upstream_dialect != "responses":
            meter.fingerprint_chars = (
                answer_fingerprint.FINGERPRINT_CHARS_MAX
                if context.session.history_is_shared
                else answer_fingerprint.FINGERPRINT_CHARS_DEFAULT
            )
        stream = StreamRelay(
            progress,
            meter,
            translation,
            response,
            headers,
            writer,
            clock=self._clock,
            circuit_breakers=self._circuit_breakers,
        )
        if context.request.is_background:
            stream.on_start = lambda answer_id: self._record_start(context, progress, answer_id)
        if await stream.run(context.features.input_tokens):
            self._mark_completed(progress, 200)
            progress.code = "hold_exhausted"
            return CallerResponse(status=200, headers={}, already_sent=True)
        await stream.finish()
        if meter.error is not None and not stream.begun:
            progress.is_uncharged = meter.usage is None and not meter.text_totals()[0]
            return self._failed_answer(context, progress, {"error": meter.error}, response.headers, now=now)
        if meter.error is not None and translation is not None:
            # A translated stream ends with our own error event.
            raise BrokenResponse(f"Provider stream ended with an error: {_error_message(meter.error)}")
        self._mark_completed(progress, response.status)
        progress.answer_id, progress.answer_fingerprint, progress.tool_calls = (
            meter.id,
            meter.fingerprint,
            meter.tool_calls,
        )
        if meter.error is not None:
            progress.outcome, progress.code = "cut", "upstream_error"
        await stream.forward_end_mark()
        return CallerResponse(status=response.status, headers=headers, already_sent=True)

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
        return TranslatedStream(
            translator,
            chat=context.request.dialect == "chat",
            last_payload=lambda: _estimated_usage(context, progress),
        )

    async def _relay_error_status(
        self, context: RequestContext, progress: AttemptProgress, response: UpstreamResponse, *, now: float
    ) -> CallerResponse | FailedAttempt:
        """Relay an error status, or report a failed attempt.

        No provider charges for an error status.
        """
        progress.is_uncharged = True
        status, headers = response.status, response.headers
        body = await _read_prefix(response, _ERROR_BYTES_MAX)
        failure = read_failure(context, progress, status, body)
        retry_without_usage = refuses_usage_request(context, progress, status, body)
        retry_dialect = None if retry_without_usage else other_dialect(context, progress, status, body)
        result = self._failed(context, progress, failure, _ErrorReply(status, headers, body), now=now)
        if retry_without_usage or retry_dialect is not None:
            progress.outcome = "upstream_error"
            progress.code = "usage_request_refused" if retry_without_usage else "dialect_not_supported"
            return structs.replace(result, retry_dialect=retry_dialect, retry_without_usage=retry_without_usage)
        if not failure.retry_same and not failure.try_other:
            return result.answer
        if failure.is_context_overflow:
            limit = failure.context_tokens or progress.attempt.deployment.context_tokens_max
            return structs.replace(result, context_tokens_above=limit)
        return result

    def _failed_answer(
        self,
        context: RequestContext,
        progress: AttemptProgress,
        document: Mapping[str, Any],
        headers: Mapping[str, str],
        *,
        now: float,
    ) -> FailedAttempt:
        """A failure that the provider reported under status 200: another deployment may always serve.

        document: the error body
        """
        status, body = status_of_error(document), lenient_json.dumps(document)
        failure = read_failure(context, progress, status, body)
        # Words within an answer are meant for its reader, unlike the pages of a server that is down.
        failure = structs.replace(failure, try_other=True, hides_message=failure.code == "provider_account")
        result = self._failed(context, progress, failure, _ErrorReply(status, headers, None), now=now)
        return structs.replace(result, context_tokens_above=failure.context_tokens)

    def _failed(
        self,
        context: RequestContext,
        progress: AttemptProgress,
        failure: ProviderFailure,
        reply: "_ErrorReply",
        *,
        now: float,
    ) -> FailedAttempt:
        """Record a provider error in the attempt and in the circuit breaker of its deployment."""
        wall_now = context.started_at + now - context.started_monotonic
        retry_after = retry_after_seconds(reply.status, reply.headers, now=wall_now)
        progress.outcome = "upstream_error" if failure.try_other else "rejected"
        progress.code, progress.upstream_status = failure.code, reply.status
        self._update_circuit_breaker(progress, failure, retry_after, now=now)
        answer = error_answer(
            context, progress, failure, reply.status, reply.headers, reply.body, retry_after=retry_after
        )
        progress.status = answer.status
        return FailedAttempt(
            answer=answer,
            retry_same=failure.retry_same,
            retry_other=failure.try_other,
            retry_after_seconds=retry_after,
        )

    def _update_circuit_breaker(
        self, progress: AttemptProgress, failure: ProviderFailure, retry_after: float | None, *, now: float
    ) -> None:
        """Record a provider error in the circuit breaker of its deployment."""
        name, is_probe = progress.attempt.deployment.name, progress.is_probe
        if failure.is_rate_limit:
            if is_probe:
                self._circuit_breakers.cancel_probe(name, now=now)
            self._circuit_breakers.record_rate_limit(name, now=now, retry_after=retry_after)
        elif failure.retry_same or failure.blames_deployment:
            self._circuit_breakers.record_failure(name, now=now)
            # A 503 may name a pause as well (RFC 9110, 10.2.3).
            self._circuit_breakers.record_rate_limit(name, now=now, retry_after=retry_after)
        else:
            # It answers; the request is at fault, or what the gateway added to it.
            self._circuit_breakers.record_success(name)

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
            event = responses.interruption_event if context.request.is_background else dialect.error_event
            await writer.write(event(error))
            return CallerResponse(status=200, headers={}, already_sent=True)
        retry_same = error.retryable and not isinstance(error, UpstreamTimeout)
        return FailedAttempt(
            answer=dialect.error_response(error), retry_same=retry_same, retry_other=True, retry_after_seconds=None
        )

    def _mark_completed(self, progress: AttemptProgress, status: int) -> None:
        progress.outcome, progress.status, progress.code = "completed", status, ""
        name, dialect = progress.attempt.deployment.name, progress.attempt.upstream_dialect
        self._circuit_breakers.record_success(name)
        if progress.usage_request_refused:
            self._circuit_breakers.record_refused_usage_request(name, now=progress.first_byte_monotonic or 0.0)
        if progress.missing_dialect:
            self._circuit_breakers.record_missing_dialect(
                name, progress.missing_dialect, now=progress.first_byte_monotonic or 0.0
            )
        elif dialect in progress.attempt.deployment.unconfirmed_dialects:
            self._circuit_breakers.record_dialect(name, dialect)


def _response_translator(
    context: RequestContext, progress: AttemptProgress, translated: TranslatedRequest
) -> AnswerTranslator:
    return context.translator.answer_translator(
        translated,
        progress.attempt.upstream_dialect,
        answer_id=f"{context.request_id}{progress.number}",
        created=int(context.started_at),
    )


def _estimated_usage(context: RequestContext, progress: AttemptProgress) -> dict[str, Any] | None:
    """What a translated caller is shown of usage that the provider did not report: the estimate that is booked."""
    usage = settle.usage_of_attempt(context, progress)
    return None if usage.exact else usage_payload(progress.attempt.upstream_dialect, usage)


def _translated_body(translator: AnswerTranslator, document: dict[str, Any]) -> bytes:
    """A whole answer in the caller's dialect. Raises UnreadableResponse."""
    try:
        return lenient_json.dumps(translator.translate_document(document))
    except SHAPE_ERRORS as error:
        raise UnreadableResponse("Provider response does not match its dialect.") from error


def _answer_events(dialect: str, document: dict[str, Any]) -> bytes | None:
    """The answer as the events of a stream; None where it has no such form."""
    try:
        return DIALECTS[dialect].answer_events_of(document)
    except SHAPE_ERRORS:
        return None


def _text_bytes(dialect: str, document: dict[str, Any], body: bytes) -> int:
    """Bytes of text in an answer without usage; the whole body if unreadable."""
    try:
        return DIALECTS[dialect].answer_text_bytes(document)
    except SHAPE_ERRORS:
        return len(body)


async def _read_prefix(response: UpstreamResponse, limit: int) -> bytes:
    """The first `limit` bytes or so of an error body."""
    parts, size = [], 0
    while size < limit and (data := await response.read_chunk()):
        parts.append(data)
        size += len(data)
    return b"".join(parts)


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        document = lenient_json.loads(body)
    except ValueError:
        return None
    if isinstance(document, list) and document and isinstance(document[0], dict) and "error" in document[0]:
        # Google's list of one error.
        return document[0]
    return document if isinstance(document, dict) else None


def _error_message(error: Any) -> str:
    """The message of a provider's error event."""
    return words_of(error)[:500] or "no message"
