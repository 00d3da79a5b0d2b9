"""Our refusals and errors in OpenAI's shape, for every dialect of theirs."""

from collections.abc import Mapping
from typing import Any

import orjson

from ..values.caller_response import CallerResponse
from ..values.errors import CallerError, Overloaded, PenstockError
from ..values.plan import Refusal

_JSON = "application/json"


def refusal_answer(refusal: Refusal) -> CallerResponse:
    """A refusal that agents obey: 400 stops every client that was measured at once, 429 only where waiting helps."""
    headers = {"content-type": _JSON, "x-should-retry": "false"}
    status = refusal.status or 400
    if refusal.retry_after_seconds is not None:
        status = refusal.status or 429
        headers = {"content-type": _JSON, "retry-after": str(refusal.retry_after_seconds)}
    body = _encode_error(refusal.message, "penstock_refusal", refusal.code, refusal.param, refusal.details)
    return CallerResponse(status=status, headers=headers, body=body)


def error_answer(error: PenstockError) -> CallerResponse:
    """An error of the tree. Callers' mistakes and what we have already retried are not to be retried."""
    headers = {"content-type": _JSON}
    if error.retry_after_seconds is not None:
        headers["retry-after"] = str(error.retry_after_seconds)
    elif not isinstance(error, Overloaded):
        headers["x-should-retry"] = "false"
    return CallerResponse(status=error.status, headers=headers, body=error_body(error))


def error_body(error: PenstockError) -> bytes:
    """The JSON body of an error of the tree."""
    kind = "invalid_request_error" if isinstance(error, CallerError) else "api_error"
    return _encode_error(error.message, kind, error.code, error.param, None)


def _encode_error(message: str, kind: str, code: str, param: str | None, details: Mapping[str, Any] | None) -> bytes:
    """The four fields that SDKs read; `details` is added beside them."""
    error: dict[str, Any] = {"message": message, "type": kind, "param": param, "code": code}
    if details:
        error["details"] = details
    return orjson.dumps({"error": error})
