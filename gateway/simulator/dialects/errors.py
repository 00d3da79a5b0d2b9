"""The two shapes in which a provider says no: OpenAI's and Anthropic's."""

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
# The status of an order `status:NNN` is worded like this in OpenAI's dialects, and means nothing to any client.
_SIMULATED_TYPE = "simulated"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiError:
    """Why a request is refused, before a dialect words it.

    `slug` is OpenAI's `code`; by another name, since a `code` in this package is one of the gateway's own, which its
    docs list.
    """

    message: str
    status: int = 400
    error_type: str = "invalid_request_error"
    openai_code: str | None = None
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


def simulated_status_error(status: int) -> ApiError:
    """A refusal that was ordered."""
    return ApiError(
        status=status, message=f"simulated status {status}", error_type=_SIMULATED_TYPE, openai_code=_SIMULATED_TYPE
    )


def openai_error_body(complaint: ApiError) -> dict[str, Any]:
    """As OpenAI words it."""
    return {
        "error": {
            "message": complaint.message,
            "type": complaint.error_type,
            "param": complaint.param,
            "code": complaint.openai_code,
        }
    }


def anthropic_error_body(complaint: ApiError, request_id: str) -> dict[str, Any]:
    """As Anthropic words it: the type follows from the status, a code goes into the details."""
    kind = _ANTHROPIC_TYPES.get(complaint.status, "api_error" if complaint.status >= 500 else "invalid_request_error")
    error: dict[str, Any] = {"type": kind, "message": complaint.message}
    if complaint.openai_code == "insufficient_quota":
        error["details"] = {"error_code": "enforced_spend_limit_reached"}
    return {"type": "error", "error": error, "request_id": request_id}
