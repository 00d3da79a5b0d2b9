"""Builds GET /v1/models: the public model names, in OpenAI's or Anthropic's shape."""

from collections.abc import Sequence
from typing import Any

import orjson

from ..values.caller_response import CallerResponse

_HEADERS = {"content-type": "application/json"}


def model_list(names: Sequence[str], *, anthropic: bool) -> CallerResponse:
    """Build the list of routes."""
    data = [_model_document(name, anthropic) for name in names]
    if anthropic:
        ends = {"first_id": names[0] if names else None, "last_id": names[-1] if names else None}
        return json_response({"data": data, "has_more": False, **ends})
    return json_response({"object": "list", "data": data})


def model_entry(name: str, *, anthropic: bool) -> CallerResponse:
    """Build the entry of one route."""
    return json_response(_model_document(name, anthropic))


def json_response(document: Any) -> CallerResponse:
    """Build a 200 response from a document."""
    return CallerResponse(status=200, headers=_HEADERS, body=orjson.dumps(document))


def _model_document(name: str, anthropic: bool) -> dict[str, Any]:
    # SDKs' types require a date; a route has none.
    if anthropic:
        return {"type": "model", "id": name, "display_name": name, "created_at": "1970-01-01T00:00:00Z"}
    return {"id": name, "object": "model", "created": 0, "owned_by": "penstock"}
