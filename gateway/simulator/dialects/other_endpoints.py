"""Small endpoints: models, moderations, images, input token counts."""

from collections.abc import Iterator, Mapping
from typing import Any

from ..directives import Directive, SimulatedReply, SimulatedRequest
from ..issued_ids import IdIssuer
from ..usage import PromptCache, SimulatedUsage, json_tokens, text_tokens
from .base import AnswerContent, Body, ResourceHandler, SimulatedDialect
from .errors import ApiError

# The categories of omni-moderation-latest.
_CATEGORIES = (
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm",
    "self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors", "violence", "violence/graphic",
)  # fmt: skip
# A transparent PNG of one pixel.
_ONE_PIXEL_PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
# Tokens of gpt-image-1 for an image of 1024 x 1024 in medium quality.
_IMAGE_TOKENS = 1056
_MODEL_CREATED_AT = 1_767_225_600


class Models(SimulatedDialect):
    """GET /v1/models and /v1/models/{id}, in the shape of the caller's client."""

    name = "models"

    def __init__(self, prompt_cache: PromptCache, ids: IdIssuer, model: str) -> None:
        super().__init__(prompt_cache, ids)
        self._model = model

    def resource_routes(self) -> dict[str, ResourceHandler]:
        """The list, and one model."""
        return {"GET /v1/models": self._list, "GET /v1/models/{id}": self._retrieve}

    def _list(self, id: str, anthropic: bool) -> Body:
        data = [_model_body(self._model, anthropic)]
        if anthropic:
            return {"data": data, "has_more": False, "first_id": self._model, "last_id": self._model}
        return {"object": "list", "data": data}

    def _retrieve(self, id: str, anthropic: bool) -> Body | ApiError:
        if id == self._model:
            return _model_body(id, anthropic)
        return ApiError(
            status=404, message=f"The model '{id}' does not exist", openai_code="model_not_found", param="model"
        )


class Moderations(SimulatedDialect):
    """POST /v1/moderations: nothing is ever flagged."""

    name = "moderations"
    requires_model = False
    known_parameters = frozenset({"input", "model"})

    def parse_request(self, body: Body) -> SimulatedRequest:
        """The input, which may carry a directive."""
        return SimulatedRequest(text="\n".join(_input_texts(body["input"])))

    def usage(
        self, body: Body, request: SimulatedRequest, reply: SimulatedReply, directive: Directive
    ) -> SimulatedUsage:
        """Free of charge."""
        return SimulatedUsage(input_tokens=0, output_tokens=0)

    def document(self, answer: AnswerContent) -> Body:
        """A result for each text, one for a list of parts."""
        request_input = answer.body["input"]
        is_text_list = isinstance(request_input, list) and all(isinstance(item, str) for item in request_input)
        result = {
            "flagged": False,
            "categories": dict.fromkeys(_CATEGORIES, False),
            "category_scores": dict.fromkeys(_CATEGORIES, 0.0),
            "category_applied_input_types": {name: ["text"] for name in _CATEGORIES},
        }
        model = answer.body.get("model") or "omni-moderation-latest"
        return {
            "id": self.ids.id("modr-", answer.sequence_number),
            "model": model,
            "results": [result] * (len(request_input) if is_text_list else 1),
        }


class Images(SimulatedDialect):
    """POST /v1/images/generations: as many transparent pixels as requested."""

    name = "images"
    requires_model = False
    known_parameters = frozenset(
        {"prompt", "model", "background", "moderation", "n", "output_compression", "output_format", "partial_images"}
        | {"quality", "response_format", "size", "stream", "style", "user"}
    )

    def validation_errors(self, body: Body, headers: Mapping[str, str]) -> Iterator[ApiError]:
        """Unknown parameters, then a missing prompt."""
        yield from super().validation_errors(body, headers)
        if not isinstance(body.get("prompt"), str):
            yield ApiError(
                message="Missing required parameter: 'prompt'.",
                openai_code="missing_required_parameter",
                param="prompt",
            )

    def parse_request(self, body: Body) -> SimulatedRequest:
        """The prompt, which may carry a directive."""
        return SimulatedRequest(text=body["prompt"])

    def usage(
        self, body: Body, request: SimulatedRequest, reply: SimulatedReply, directive: Directive
    ) -> SimulatedUsage:
        """The prompt's text, and a fixed count per image."""
        return SimulatedUsage(
            input_tokens=text_tokens([body["prompt"]]), output_tokens=_IMAGE_TOKENS * (body.get("n") or 1)
        )

    def document(self, answer: AnswerContent) -> Body:
        """The images."""
        document = {
            "created": answer.created_at,
            "background": "opaque",
            "output_format": "png",
            "quality": answer.body.get("quality") or "medium",
            "size": answer.body.get("size") or "1024x1024",
            "data": [{"b64_json": _ONE_PIXEL_PNG}] * (answer.body.get("n") or 1),
        }
        return {**document, "usage": _image_usage_body(answer.usage)} if answer.usage else document


class InputTokens(SimulatedDialect):
    """POST /v1/responses/input_tokens."""

    name = "responses"

    def validation_errors(self, body: Body, headers: Mapping[str, str]) -> Iterator[ApiError]:
        """None: not validated."""
        yield from ()

    def parse_request(self, body: Body) -> SimulatedRequest:
        """Empty: only the body's size counts."""
        return SimulatedRequest()

    def document(self, answer: AnswerContent) -> Body:
        """The count."""
        return {"object": "response.input_tokens", "input_tokens": json_tokens(answer.body)}


def _model_body(id: str, anthropic: bool) -> Body:
    if anthropic:
        return {"type": "model", "id": id, "display_name": id, "created_at": "2026-01-01T00:00:00Z"}
    return {"id": id, "object": "model", "created": _MODEL_CREATED_AT, "owned_by": "sim"}


def _input_texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [item if isinstance(item, str) else str(item.get("text") or "") for item in value]


def _image_usage_body(usage: SimulatedUsage) -> Body:
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"text_tokens": usage.input_tokens, "image_tokens": 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"text_tokens": 0, "image_tokens": usage.output_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
