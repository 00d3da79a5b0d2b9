"""OpenAI embeddings, caller side. Input is text, texts, tokens or lists of tokens; nothing is written in answer."""

from collections.abc import Mapping
from typing import Any

from ..values.caller_response import CallerResponse
from ..values.errors import BadRequest, PenstockError
from ..values.plan import Refusal
from ..values.request import Message, Request
from . import body as bodies
from . import openai_errors
from .chat_stream import ChatStreamMeter


class _EmbeddingsFields(bodies.BodyFields, gc=False, kw_only=True):
    """The fields that we act on; everything else is checked to be JSON and skipped."""

    input: str | list[str | int | list[int]]


_READER = bodies.BodyReader(_EmbeddingsFields, required="input")


def parse(body: bytes | bytearray) -> Request:
    """Read one embeddings body. Raises BadRequest with a sentence that names the field. A bytearray is taken over."""
    if isinstance(body, bytes):
        body = bytearray(body)
    document, span = _READER.read(body)
    given = document.input
    if not given:
        raise BadRequest("'input' must not be empty.", param="input")
    texts = [given] if isinstance(given, str) else [text for text in given if isinstance(text, str)]
    text = texts[0] if texts else ""
    return Request(
        dialect="embeddings",
        body=body,
        model=document.masked_model,
        model_span=span,
        messages=[Message("user", text)],
        sizes=[len(text)],
        stream=False,
        wants_usage=True,
        usage_splice=None,
        max_output_tokens=0,
        choice_count=1,
        tool_names=frozenset(),
        has_schema=False,
        user=bodies.end_user(document),
    )


def upstream_body(request: Request, model: str, *, ask_usage: bool) -> tuple[bytes | memoryview, ...]:
    """The caller's body with the deployment's model name in it."""
    return bodies.splice_model(request, model)


def stream_meter(request: Request) -> ChatStreamMeter:
    """Embeddings do not stream; a provider that does anyway is read like chat."""
    return ChatStreamMeter(withhold_usage=False)


def answer_text_bytes(document: Mapping[str, Any]) -> int:
    """Bytes of text in a whole answer: vectors weigh nothing."""
    return 0


def refusal_answer(refusal: Refusal) -> CallerResponse:
    """A refusal in OpenAI's shape."""
    return openai_errors.refusal_answer(refusal)


def error_answer(error: PenstockError) -> CallerResponse:
    """An error of the tree in OpenAI's shape."""
    return openai_errors.error_answer(error)


def error_event(error: PenstockError) -> bytes:
    """A failure after the answer began."""
    return b"data: " + openai_errors.error_body(error) + b"\n\n"
