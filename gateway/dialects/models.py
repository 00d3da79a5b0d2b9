"""GET /v1/models: the public model names, in OpenAI's shape or in Anthropic's."""

from collections.abc import Sequence
from typing import Any

import orjson

from ..values.caller_response import CallerResponse

_HEADERS = {"content-type": "application/json"}


def model_list(names: Sequence[str], *, anthropic: bool) -> CallerResponse:
    """The list of routes."""
    data = [_model_document(name, anthropic) for name in names]
    if anthropic:
        ends = {"first_id": names[0] if names else None, "last_id": names[-1] if names else None}
        return json_answer({"data": data, "has_more": False, **ends})
    return json_answer({"object": "list", "data": data})


def model_entry(name: str, *, anthropic: bool) -> CallerResponse:
    """One route."""
    return json_answer(_model_document(name, anthropic))


def json_answer(document: Any) -> CallerResponse:
    """A document as an answer."""
    return CallerResponse(status=200, headers=_HEADERS, body=orjson.dumps(document))


def _model_document(name: str, anthropic: bool) -> dict[str, Any]:
    # Dates are required by SDKs' types; a route has no date of birth.
    if anthropic:
        return {"type": "model", "id": name, "display_name": name, "created_at": "1970-01-01T00:00:00Z"}
    return {"id": name, "object": "model", "created": 0, "owned_by": "penstock"}
