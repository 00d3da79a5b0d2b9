"""OpenAI embeddings, caller side: input as text, texts, tokens or token lists; no output text."""

from collections.abc import Mapping
from typing import Any

from ..values.caller_response import CallerResponse
from ..values.errors import BadRequest, PenstockError
from ..values.plan import Refusal
from ..values.request import Message, Request
from . import answer_failure, openai_errors
from . import body as bodies
from . import price_terms as terms
from .body_errors import OPENAI_ERRORS
from .chat_stream import ChatStreamMeter


class _EmbeddingsFields(bodies.BodyFields, gc=False, kw_only=True):
    """The fields the gateway acts on; all others are only checked to be JSON."""

    input: str | list[str | int | list[int]]


_READER = bodies.BodyReader(_EmbeddingsFields, required="input")


def parse(body: bytes | bytearray) -> Request:
    """Parse an embeddings body. Raises BadRequest naming the field. A bytearray is kept, not copied."""
    if isinstance(body, bytes):
        body = bytearray(body)
    document, span = _READER.read(body)
    inputs = document.input
    if not inputs:
        template = OPENAI_ERRORS.empty_string if isinstance(inputs, str) else OPENAI_ERRORS.empty_array
        raise BadRequest(template.format(field="input"), param="input")
    texts = [inputs] if isinstance(inputs, str) else [text for text in inputs if isinstance(text, str)]
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
        price_terms=terms.tier_terms(document),
    )


def upstream_body(request: Request, model: str, *, ask_usage: bool) -> tuple[bytes | memoryview, ...]:
    """Return the caller's body with the deployment's model name."""
    return bodies.splice_model(request, model)


def stream_meter(request: Request) -> ChatStreamMeter:
    """Create the meter of a stream; embeddings have none, so one sent anyway is read like chat."""
    return ChatStreamMeter(withhold_usage=False)


def failed_answer(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the error body behind an unstreamed answer that is a failure, None for an answer."""
    return answer_failure.failed_answer(document, lambda answer: isinstance(answer.get("data"), list))


def answer_events_of(document: Mapping[str, Any]) -> bytes | None:
    """Return an unstreamed answer as the events of a stream, None where that is not possible."""
    return None


def answer_text_bytes(document: Mapping[str, Any]) -> int:
    """Return 0: vectors hold no text."""
    return 0


def refusal_response(refusal: Refusal) -> CallerResponse:
    """Build the response to a refusal, in OpenAI's shape."""
    return openai_errors.refusal_response(refusal)


def error_response(error: PenstockError) -> CallerResponse:
    """Build the response to an error, in OpenAI's shape."""
    return openai_errors.error_response(error)


def error_event(error: PenstockError) -> bytes:
    """Build the event for a failure mid-stream."""
    return b"data: " + openai_errors.error_body(error) + b"\n\n"
