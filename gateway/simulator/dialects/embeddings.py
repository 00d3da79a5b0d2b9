"""OpenAI's embeddings: https://platform.openai.com/docs/api-reference/embeddings"""

import base64
import hashlib
import math
from array import array
from collections.abc import Iterator, Mapping
from typing import Any

from ..directives import Directive, SimulatedReply, SimulatedRequest
from ..usage import SimulatedUsage, text_tokens
from .base import AnswerContent, Body, SimulatedDialect
from .errors import ApiError

# As many as text-embedding-3-small gives.
_DIMENSIONS = 1536
_INPUTS_MAX = 2048


class Embeddings(SimulatedDialect):
    """POST /v1/embeddings: unit vectors that follow from the text, so equal texts are equal."""

    name = "embeddings"
    known_parameters = frozenset({"input", "model", "dimensions", "encoding_format", "user"})

    def validation_errors(self, body: Body, headers: Mapping[str, str]) -> Iterator[ApiError]:
        """Unknown parameters, then an input that is none."""
        yield from super().validation_errors(body, headers)
        inputs = _listed_inputs(body.get("input"))
        if not inputs or not all(inputs) or len(inputs) > _INPUTS_MAX:
            yield ApiError(message="'$.input' is invalid. Please check the API reference.", param="input")

    def parse_request(self, body: Body) -> SimulatedRequest:
        """Texts may carry an order."""
        return SimulatedRequest(text="\n".join(one for one in _listed_inputs(body["input"]) if isinstance(one, str)))

    def usage(self, body: Body, asked: SimulatedRequest, reply: SimulatedReply, order: Directive) -> SimulatedUsage:
        """Token arrays count exactly."""
        inputs = _listed_inputs(body["input"])
        return SimulatedUsage(
            input_tokens=sum(text_tokens([i]) if isinstance(i, str) else len(i) for i in inputs), output_tokens=0
        )

    def document(self, told: AnswerContent) -> Body:
        """A list of vectors."""
        size = told.body.get("dimensions") or _DIMENSIONS
        encoded = told.body.get("encoding_format") == "base64"
        vectors = [_vector(one, size) for one in _listed_inputs(told.body["input"])]
        data = [
            {"object": "embedding", "index": index, "embedding": _base64_of(vector) if encoded else vector}
            for index, vector in enumerate(vectors)
        ]
        document: Body = {"object": "list", "data": data, "model": told.body["model"]}
        if told.usage is not None:
            document["usage"] = {"prompt_tokens": told.usage.input_tokens, "total_tokens": told.usage.input_tokens}
        return document


def _listed_inputs(given: Any) -> list[Any]:
    """One or several, each a text or an array of tokens."""
    several = isinstance(given, list) and not (given and isinstance(given[0], int))
    return given if several else [given]


def _vector(one: Any, size: int) -> list[float]:
    numbers = array("h", hashlib.shake_256(repr(one).encode()).digest(2 * size))
    norm = math.sqrt(sum(number * number for number in numbers)) or 1.0
    return [round(number / norm, 9) for number in numbers]


def _base64_of(vector: list[float]) -> str:
    return base64.b64encode(array("f", vector).tobytes()).decode()
