"""Builds refusals and errors in OpenAI's shape, for all OpenAI dialects."""

from collections.abc import Mapping
from typing import Any

import orjson

from ..values.caller_response import CallerResponse
from ..values.errors import CallerError, Overloaded, PenstockError
from ..values.plan import Refusal

_JSON = "application/json"


def refusal_response(refusal: Refusal) -> CallerResponse:
    """Build the response to a refusal: 400, on which all measured clients stop; 429 only where waiting helps."""
    headers = {"content-type": _JSON, "x-should-retry": "false"}
    status = refusal.status or 400
    if refusal.retry_after_seconds is not None:
        status = refusal.status or 429
        headers = {"content-type": _JSON, "retry-after": str(refusal.retry_after_seconds)}
    body = _encode_error(refusal.message, "penstock_refusal", refusal.code, refusal.param, refusal.details)
    return CallerResponse(status=status, headers=headers, body=body)


def error_response(error: PenstockError) -> CallerResponse:
    """Build the response to an error; it asks for no retry of callers' mistakes and of what was already retried."""
    headers = {"content-type": _JSON, **error.headers}
    if error.retry_after_seconds is not None:
        headers["retry-after"] = str(error.retry_after_seconds)
    elif not isinstance(error, Overloaded):
        headers["x-should-retry"] = "false"
    return CallerResponse(status=error.status, headers=headers, body=error_body(error))


def error_body(error: PenstockError) -> bytes:
    """Return the JSON body of an error."""
    kind = "invalid_request_error" if isinstance(error, CallerError) else "api_error"
    return _encode_error(error.message, kind, error.code, error.param, None)


def _encode_error(message: str, kind: str, code: str, param: str | None, details: Mapping[str, Any] | None) -> bytes:
    """The four fields that SDKs read, and `details`."""
    error: dict[str, Any] = {"message": message, "type": kind, "param": param, "code": code}
    if details:
        error["details"] = details
    return orjson.dumps({"error": error})
