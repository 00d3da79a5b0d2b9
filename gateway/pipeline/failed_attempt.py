"""What a provider's error means for this request, and the caller's answer if no further attempt is made. Pure."""

import math
import re
from collections.abc import Mapping
from typing import Any

from msgspec import structs

from ..dialects import DIALECTS
from ..dialects.translation import upstream_dialect_of
from ..providers import PROVIDERS
from ..providers.error_body import error_object
from ..providers.failure import MODEL_NOT_FOUND, REJECTED, ProviderFailure
from ..values.base import Value
from ..values.caller_response import CallerResponse
from ..values.errors import CallerError, NotTranslatable, PenstockError, UpstreamError
from .context import AttemptProgress, RequestContext, translated_request_of

# Characters of a provider's message within our own error.
_ERROR_MESSAGE_CHARS_MAX = 2000
# Statuses by which a server says that a path does not exist.
_NO_SUCH_PATH_STATUSES = (404, 405, 501)
# Statuses by which a server refuses a field of the request.
_REFUSED_FIELD_STATUSES = (400, 422)
# Fields that lower the output limit, where a budget asks for that.
_OUTPUT_LIMIT_FIELDS = frozenset({"max_tokens", "max_completion_tokens", "max_output_tokens"})
_WORD = re.compile(r"[A-Za-z_]\w*")


class FailedAttempt(Value, frozen=True, kw_only=True):
    """An attempt that did not serve the request.

    answer: the response to the caller if this was the last attempt
    retry_same: the same deployment may be tried again
    retry_other: another deployment may be tried
    retry_after_seconds: pause that the provider asks for, None for none
    retry_dialect: retry the same deployment at once in this dialect, None otherwise
    retry_without_usage: retry the same deployment at once without asking a stream for its usage
    context_tokens_above: only deployments with a longer context than this may be tried, tokens
    """

    answer: CallerResponse
    retry_same: bool
    retry_other: bool
    retry_after_seconds: float | None
    retry_dialect: str | None = None
    retry_without_usage: bool = False
    context_tokens_above: int = 0


def read_failure(context: RequestContext, progress: AttemptProgress, status: int, body: bytes) -> ProviderFailure:
    """What an error means for this request: whether it, our configuration or the deployment is at fault."""
    failure = PROVIDERS[progress.attempt.deployment.dialect].failure_of(status, body)
    if failure.code == MODEL_NOT_FOUND and _names_stored_object(context, body):
        # The caller's own id, not our model's name, is what does not exist.
        return structs.replace(failure, code=REJECTED, try_other=False, blames_deployment=False)
    if failure.code == REJECTED and not failure.try_other and _refuses_added_field(context, progress, status, body):
        return structs.replace(failure, try_other=True)
    return failure


def refuses_usage_request(context: RequestContext, progress: AttemptProgress, status: int, body: bytes) -> bool:
    """Whether the server refuses `stream_options`, which the gateway added to learn the usage."""
    return (
        progress.asks_usage
        and context.request.stream
        and (context.request.usage_splice is not None or progress.attempt.upstream_dialect != context.request.dialect)
        and status in _REFUSED_FIELD_STATUSES
        and (b"stream_options" in body or b"include_usage" in body)
    )


def other_dialect(context: RequestContext, progress: AttemptProgress, status: int, body: bytes) -> str | None:
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


def error_answer(
    context: RequestContext,
    progress: AttemptProgress,
    failure: ProviderFailure,
    status: int,
    headers: Mapping[str, str],
    body: bytes | None,
    *,
    retry_after: float | None,
) -> CallerResponse:
    """The caller's response to a provider error.

    The provider's bytes (`body`) in the same dialect, else its words in an error of the caller's dialect.
    retry_after: the pause that the provider asks for, seconds; None for none
    """
    deployment, dialect = progress.attempt.deployment, DIALECTS[context.request.dialect]
    if failure.hides_message:
        return dialect.error_response(UpstreamError(f"Provider returned status {status}.", code=failure.code))
    if failure.code == MODEL_NOT_FOUND:
        # The caller asked for a model that exists here: the error is the gateway's.
        text = f"Provider does not serve the model of deployment '{deployment.name}' (status {status})."
        words = f" {failure.message[:_ERROR_MESSAGE_CHARS_MAX]}" if failure.message else ""
        return dialect.error_response(UpstreamError(text + words, code=failure.code))
    if body is not None and progress.attempt.upstream_dialect == context.request.dialect:
        returned = PROVIDERS[deployment.dialect].returned_headers(headers)
        return CallerResponse(status=status, headers=returned, body=body)
    is_callers = 400 <= status < 500 and not failure.retry_same
    error = (CallerError if is_callers else PenstockError)(
        failure.message[:_ERROR_MESSAGE_CHARS_MAX] or f"Provider returned status {status}.",
        code=failure.code if failure.retry_same or not failure.provider_code else failure.provider_code,
        param=failure.param,
    )
    error.status = status
    if retry_after is not None:
        error.retry_after_seconds = max(1, math.ceil(retry_after))
    return dialect.error_response(error)


def _names_stored_object(context: RequestContext, body: bytes) -> bool:
    """Whether a 404 may be about an object that the caller names: a file, a response, a batch."""
    request = context.request
    if request.passthrough is None and not request.referenced_ids and not request.provider_state:
        return False
    return b"model" not in body.lower() or bool(request.passthrough is not None and not request.model)


def _refuses_added_field(context: RequestContext, progress: AttemptProgress, status: int, body: bytes) -> bool:
    """Whether the error names a field that the gateway added to the request, and the caller did not send."""
    if status not in _REFUSED_FIELD_STATUSES:
        return False
    error = error_object(body)
    param = error.get("param")
    names = {_first_word(param)} if isinstance(param, str) and param else set(_WORD.findall(_message(error)))
    return bool(names & _added_fields(context, progress))


def _added_fields(context: RequestContext, progress: AttemptProgress) -> set[str]:
    translated = translated_request_of(context, progress)
    added = set(_OUTPUT_LIMIT_FIELDS) if progress.attempt.output_limit is not None else set()
    if translated is None:
        if context.request.usage_splice is not None:
            added.add("stream_options")
        return added - _sent_fields(context.request.body, added) if added else added
    return (set(translated.document) | added | {"max_tokens"}) - set(translated.caller_document)


def _sent_fields(body: bytes | bytearray, names: set[str]) -> set[str]:
    return {name for name in names if f'"{name}"'.encode() in body}


def _first_word(param: str) -> str:
    match = _WORD.search(param)
    return match[0] if match else ""


def _message(error: Mapping[str, Any]) -> str:
    return str(error.get("message") or "")[:_ERROR_MESSAGE_CHARS_MAX]
