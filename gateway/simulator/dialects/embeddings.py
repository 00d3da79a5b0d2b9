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

# Those of text-embedding-3-small.
_DIMENSIONS = 1536
_INPUTS_MAX = 2048


class Embeddings(SimulatedDialect):
    """POST /v1/embeddings: unit vectors derived from the text."""

    name = "embeddings"
    known_parameters = frozenset({"input", "model", "dimensions", "encoding_format", "user"})

    def validation_errors(self, body: Body, headers: Mapping[str, str]) -> Iterator[ApiError]:
        """Unknown parameters, then an invalid input."""
        yield from super().validation_errors(body, headers)
        inputs = _listed_inputs(body.get("input"))
        if not inputs or not all(inputs) or len(inputs) > _INPUTS_MAX:
            yield ApiError(message="'$.input' is invalid. Please check the API reference.", param="input")

    def parse_request(self, body: Body) -> SimulatedRequest:
        """The texts, which may carry a directive."""
        return SimulatedRequest(text="\n".join(item for item in _listed_inputs(body["input"]) if isinstance(item, str)))

    def usage(
        self, body: Body, request: SimulatedRequest, reply: SimulatedReply, directive: Directive
    ) -> SimulatedUsage:
        """By text length; token arrays count exactly."""
        inputs = _listed_inputs(body["input"])
        return SimulatedUsage(
            input_tokens=sum(text_tokens([item]) if isinstance(item, str) else len(item) for item in inputs),
            output_tokens=0,
        )

    def document(self, answer: AnswerContent) -> Body:
        """A list of vectors."""
        size = answer.body.get("dimensions") or _DIMENSIONS
        encoded = answer.body.get("encoding_format") == "base64"
        vectors = [_vector(item, size) for item in _listed_inputs(answer.body["input"])]
        data = [
            {"object": "embedding", "index": index, "embedding": _base64_of(vector) if encoded else vector}
            for index, vector in enumerate(vectors)
        ]
        document: Body = {"object": "list", "data": data, "model": answer.body["model"]}
        if answer.usage is not None:
            document["usage"] = {"prompt_tokens": answer.usage.input_tokens, "total_tokens": answer.usage.input_tokens}
        return document


def _listed_inputs(value: Any) -> list[Any]:
    """One or several inputs, each a text or an array of tokens."""
    is_list = isinstance(value, list) and not (value and isinstance(value[0], int))
    return value if is_list else [value]


def _vector(item: Any, size: int) -> list[float]:
    numbers = array("h", hashlib.shake_256(repr(item).encode()).digest(2 * size))
    norm = math.sqrt(sum(number * number for number in numbers)) or 1.0
    return [round(number / norm, 9) for number in numbers]


def _base64_of(vector: list[float]) -> str:
    return base64.b64encode(array("f", vector).tobytes()).decode()
