"""Small things a provider also does: the list of models, moderations, images, and counting tokens beforehand."""

from collections.abc import Iterator, Mapping
from typing import Any

from ..directives import Asked, Order, Reply
from ..issued_ids import Mint
from ..usage import Meter, Usage, size, tokens
from .base import Body, Dialect, Lookup, Told
from .errors import Complaint

# The categories of omni-moderation-latest.
_CATEGORIES = (
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm",
    "self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors", "violence", "violence/graphic",
)  # fmt: skip
# A transparent PNG of one pixel.
_PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
# What gpt-image-1 counts for a picture of 1024 x 1024 in medium quality.
_IMAGE_TOKENS = 1056
_CREATED = 1_767_225_600


class Models(Dialect):
    """GET /v1/models and /v1/models/{id}, in the shape of whose client asks."""

    name = "models"

    def __init__(self, meter: Meter, mint: Mint, model: str) -> None:
        super().__init__(meter, mint)
        self._model = model

    def lookups(self) -> dict[str, Lookup]:
        """All, and one."""
        return {"GET /v1/models": self._all, "GET /v1/models/{id}": self._one}

    def _all(self, id: str, anthropic: bool) -> Body:
        data = [_model(self._model, anthropic)]
        if anthropic:
            return {"data": data, "has_more": False, "first_id": self._model, "last_id": self._model}
        return {"object": "list", "data": data}

    def _one(self, id: str, anthropic: bool) -> Body | Complaint:
        if id == self._model:
            return _model(id, anthropic)
        return Complaint(status=404, message=f"The model '{id}' does not exist", slug="model_not_found", param="model")


class Moderations(Dialect):
    """POST /v1/moderations: nothing is ever flagged."""

    name = "moderations"
    names_model = False
    parameters = frozenset({"input", "model"})

    def read(self, body: Body) -> Asked:
        """The input may carry an order."""
        return Asked(text="\n".join(_moderated(body["input"])))

    def usage(self, body: Body, asked: Asked, reply: Reply, order: Order) -> Usage:
        """Free."""
        return Usage(given=0, written=0)

    def whole(self, told: Told) -> Body:
        """A result for each text, one for a list of parts."""
        given = told.body["input"]
        several = isinstance(given, list) and all(isinstance(one, str) for one in given)
        result = {
            "flagged": False,
            "categories": dict.fromkeys(_CATEGORIES, False),
            "category_scores": dict.fromkeys(_CATEGORIES, 0.0),
            "category_applied_input_types": {name: ["text"] for name in _CATEGORIES},
        }
        model = told.body.get("model") or "omni-moderation-latest"
        return {
            "id": self.mint.id("modr-", told.number),
            "model": model,
            "results": [result] * (len(given) if several else 1),
        }


class Images(Dialect):
    """POST /v1/images/generations: as many transparent pixels as are asked for."""

    name = "images"
    names_model = False
    parameters = frozenset(
        {"prompt", "model", "background", "moderation", "n", "output_compression", "output_format", "partial_images"}
        | {"quality", "response_format", "size", "stream", "style", "user"}
    )

    def complaints(self, body: Body, headers: Mapping[str, str]) -> Iterator[Complaint]:
        """Unknown parameters, then no prompt."""
        yield from super().complaints(body, headers)
        if not isinstance(body.get("prompt"), str):
            yield Complaint(
                message="Missing required parameter: 'prompt'.", slug="missing_required_parameter", param="prompt"
            )

    def read(self, body: Body) -> Asked:
        """The prompt may carry an order."""
        return Asked(text=body["prompt"])

    def usage(self, body: Body, asked: Asked, reply: Reply, order: Order) -> Usage:
        """The prompt's text, and a fixed count a picture."""
        return Usage(given=tokens([body["prompt"]]), written=_IMAGE_TOKENS * (body.get("n") or 1))

    def whole(self, told: Told) -> Body:
        """The pictures."""
        document = {
            "created": told.created,
            "background": "opaque",
            "output_format": "png",
            "quality": told.body.get("quality") or "medium",
            "size": told.body.get("size") or "1024x1024",
            "data": [{"b64_json": _PNG}] * (told.body.get("n") or 1),
        }
        return {**document, "usage": _drawn(told.usage)} if told.usage else document


class InputTokens(Dialect):
    """POST /v1/responses/input_tokens."""

    name = "responses"

    def complaints(self, body: Body, headers: Mapping[str, str]) -> Iterator[Complaint]:
        """Not looked at."""
        yield from ()

    def read(self, body: Body) -> Asked:
        """Only its size counts."""
        return Asked()

    def whole(self, told: Told) -> Body:
        """The count."""
        return {"object": "response.input_tokens", "input_tokens": size(told.body)}


def _model(id: str, anthropic: bool) -> Body:
    if anthropic:
        return {"type": "model", "id": id, "display_name": id, "created_at": "2026-01-01T00:00:00Z"}
    return {"id": id, "object": "model", "created": _CREATED, "owned_by": "sim"}


def _moderated(given: Any) -> list[str]:
    if isinstance(given, str):
        return [given]
    return [one if isinstance(one, str) else str(one.get("text") or "") for one in given]


def _drawn(usage: Usage) -> Body:
    return {
        "input_tokens": usage.given,
        "input_tokens_details": {"text_tokens": usage.given, "image_tokens": 0},
        "output_tokens": usage.written,
        "output_tokens_details": {"text_tokens": 0, "image_tokens": usage.written},
        "total_tokens": usage.given + usage.written,
    }
