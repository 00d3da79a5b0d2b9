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
_SIMULATED = "simulated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint:
    """Why a request is refused, before a dialect words it.

    `slug` is OpenAI's `code`; by another name, since a `code` in this package is one of the gateway's own, which its
    docs list.
    """

    message: str
    status: int = 400
    kind: str = "invalid_request_error"
    slug: str | None = None
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


def simulated(status: int) -> Complaint:
    """A refusal that was ordered."""
    return Complaint(status=status, message=f"simulated status {status}", kind=_SIMULATED, slug=_SIMULATED)


def openai_error(complaint: Complaint) -> dict[str, Any]:
    """As OpenAI words it."""
    return {
        "error": {
            "message": complaint.message,
            "type": complaint.kind,
            "param": complaint.param,
            "code": complaint.slug,
        }
    }


def anthropic_error(complaint: Complaint, request_id: str) -> dict[str, Any]:
    """As Anthropic words it: the type follows from the status, a code goes into the details."""
    kind = _ANTHROPIC_TYPES.get(complaint.status, "api_error" if complaint.status >= 500 else "invalid_request_error")
    error: dict[str, Any] = {"type": kind, "message": complaint.message}
    if complaint.slug == "insufficient_quota":
        error["details"] = {"error_code": "enforced_spend_limit_reached"}
    return {"type": "error", "error": error, "request_id": request_id}
