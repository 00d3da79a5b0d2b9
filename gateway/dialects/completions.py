"""OpenAI's older text completions, caller side: a prompt, or several, instead of messages."""

from collections.abc import Mapping
from typing import Any

import msgspec

from ..values.caller_response import CallerResponse
from ..values.errors import BadRequest, PenstockError
from ..values.plan import Refusal
from ..values.request import Message, Request
from . import body as bodies
from . import chat, openai_errors
from .body import check_count
from .chat_stream import ChatStreamMeter
from .sse import utf8_bytes

_CHOICES_MAX = 128


class _CompletionsFields(bodies.BodyFields, gc=False, kw_only=True):
    """The fields that we act on; everything else is checked to be JSON and skipped."""

    prompt: str | list[str | int | list[int]]
    stream: bool | None = None
    stream_options: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    max_tokens: int | None = None
    n: int | None = None
    best_of: int | None = None


_READER = bodies.BodyReader(_CompletionsFields, required="prompt")


def parse(body: bytes | bytearray) -> Request:
    """Read one completions body. Raises BadRequest with a sentence that names the field. A bytearray is taken over."""
    if isinstance(body, bytes):
        body = bytearray(body)
    document, span = _READER.read(body)
    prompt = document.prompt
    if not prompt:
        raise BadRequest("'prompt' must not be empty.", param="prompt")
    several = isinstance(prompt, list) and not isinstance(prompt[0], int)
    text = prompt if isinstance(prompt, str) else next((text for text in prompt if isinstance(text, str)), "")
    stream = bool(document.stream)
    options = chat.stream_options(document.stream_options)
    wants_usage = bool(options and options.get("include_usage"))
    each = max(
        check_count("n", document.n, _CHOICES_MAX) or 1, check_count("best_of", document.best_of, _CHOICES_MAX) or 1
    )
    return Request(
        dialect="completions",
        body=body,
        model=document.masked_model,
        model_span=span,
        messages=[Message("user", text)],
        sizes=[len(text)],
        stream=stream,
        wants_usage=wants_usage,
        usage_splice=(
            chat.usage_splice(_READER, body, document.stream_options, options) if stream and not wants_usage else None
        ),
        max_output_tokens=check_count("max_tokens", document.max_tokens, bodies.OUTPUT_TOKENS_MAX),
        choice_count=each * (len(prompt) if several else 1),
        tool_names=frozenset(),
        has_schema=False,
        user=bodies.end_user(document),
    )


def upstream_body(request: Request, model: str, *, ask_usage: bool) -> tuple[bytes | memoryview, ...]:
    """The caller's body with the deployment's model name in it and, if asked, usage reporting switched on."""
    return chat.upstream_body(request, model, ask_usage=ask_usage)


def stream_meter(request: Request) -> ChatStreamMeter:
    """What reads the answer as it streams by."""
    return ChatStreamMeter(withhold_usage=not request.wants_usage)


def answer_text_bytes(document: Mapping[str, Any]) -> int:
    """Bytes of text in a whole answer."""
    choices = document.get("choices")
    texts = [one.get("text") for one in choices if isinstance(one, dict)] if isinstance(choices, list) else []
    return sum(map(utf8_bytes, texts))


def refusal_answer(refusal: Refusal) -> CallerResponse:
    """A refusal in OpenAI's shape."""
    return openai_errors.refusal_answer(refusal)


def error_answer(error: PenstockError) -> CallerResponse:
    """An error of the tree in OpenAI's shape."""
    return openai_errors.error_answer(error)


def error_event(error: PenstockError) -> bytes:
    """A failure after the answer began: an event with a top-level `error`, which SDKs raise, and the end."""
    return chat.error_event(error)
