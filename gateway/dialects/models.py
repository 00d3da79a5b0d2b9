"""GET /v1/models: the public model names, in OpenAI's shape or in Anthropic's."""

from collections.abc import Sequence
from typing import Any

import orjson

from ..values.caller_response import Answer

_HEADERS = {"content-type": "application/json"}


def all_of(names: Sequence[str], *, anthropic: bool) -> Answer:
    """The list of routes."""
    data = [_model(name, anthropic) for name in names]
    if anthropic:
        ends = {"first_id": names[0] if names else None, "last_id": names[-1] if names else None}
        return json({"data": data, "has_more": False, **ends})
    return json({"object": "list", "data": data})


def one(name: str, *, anthropic: bool) -> Answer:
    """One route."""
    return json(_model(name, anthropic))


def json(document: Any) -> Answer:
    """A document as an answer."""
    return Answer(status=200, headers=_HEADERS, body=orjson.dumps(document))


def _model(name: str, anthropic: bool) -> dict[str, Any]:
    # Dates are required by SDKs' types; a route has no date of birth.
    if anthropic:
        return {"type": "model", "id": name, "display_name": name, "created_at": "1970-01-01T00:00:00Z"}
    return {"id": name, "object": "model", "created": 0, "owned_by": "penstock"}
