"""GET /v1/models: the public model names, in OpenAI's shape."""

from collections.abc import Iterable
from typing import Any

import orjson

from ..values.answer import Answer

_HEADERS = {"content-type": "application/json"}


def all_of(names: Iterable[str]) -> Answer:
    """The list of routes."""
    return Answer(
        status=200, headers=_HEADERS, body=orjson.dumps({"object": "list", "data": [_model(n) for n in names]})
    )


def one(name: str) -> Answer:
    """One route."""
    return Answer(status=200, headers=_HEADERS, body=orjson.dumps(_model(name)))


def _model(name: str) -> dict[str, Any]:
    # `created` is required by SDKs' types; a route has no date of birth.
    return {"id": name, "object": "model", "created": 0, "owned_by": "penstock"}
