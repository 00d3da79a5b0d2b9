"""Errors in OpenAI's and in Anthropic's shape."""

from dataclasses import dataclass, field
from typing import Any

# https://docs.claude.com/en/api/errors; 402 and 504 as in the types of its Python package.
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
# Type and code of the fault `status:NNN` in OpenAI's dialects; no client gives it a meaning.
_SIMULATED_TYPE = "simulated"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiError:
    """An error before a dialect encodes it.

    `openai_code` is OpenAI's `code`; named differently, since a `code` in this package is one of the gateway's own,
    which its docs list.
    """

    message: str
    status: int = 400
    error_type: str = "invalid_request_error"
    openai_code: str | None = None
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


def simulated_status_error(status: int) -> ApiError:
    """The error of the fault `status:NNN`."""
    return ApiError(
        status=status, message=f"simulated status {status}", error_type=_SIMULATED_TYPE, openai_code=_SIMULATED_TYPE
    )


def openai_error_body(error: ApiError) -> dict[str, Any]:
    """In OpenAI's shape."""
    return {
        "error": {
            "message": error.message,
            "type": error.error_type,
            "param": error.param,
            "code": error.openai_code,
        }
    }


def anthropic_error_body(error: ApiError, request_id: str) -> dict[str, Any]:
    """In Anthropic's shape: the type follows from the status."""
    kind = _ANTHROPIC_TYPES.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    document: dict[str, Any] = {"type": kind, "message": error.message}
    if error.openai_code == "insufficient_quota":
        document["details"] = {"error_code": "enforced_spend_limit_reached"}
    return {"type": "error", "error": document, "request_id": request_id}
