"""OpenAI's legacy completions, caller side: one or several prompts instead of messages."""

from collections.abc import Mapping
from typing import Any

import msgspec

from ..values.caller_response import CallerResponse
from ..values.errors import BadRequest, PenstockError
from ..values.plan import Refusal
from ..values.request import Message, Request
from . import answer_events, answer_failure, chat, openai_errors
from . import body as bodies
from . import price_terms as terms
from .body import check_count
from .body_errors import OPENAI_ERRORS
from .chat_stream import ChatStreamMeter
from .sse import utf8_bytes

_CHOICES_MAX = 128


class _CompletionsFields(bodies.BodyFields, gc=False, kw_only=True):
    """The fields the gateway acts on; all others are only checked to be JSON."""

    prompt: str | list[str | int | list[int]]
    stream: bool | None = None
    stream_options: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    max_tokens: int | None = None
    n: int | None = None
    best_of: int | None = None


_READER = bodies.BodyReader(_CompletionsFields, required="prompt")


def parse(body: bytes | bytearray) -> Request:
    """Parse a completions body. Raises BadRequest naming the field. A bytearray is kept, not copied."""
    if isinstance(body, bytes):
        body = bytearray(body)
    document, span = _READER.read(body)
    prompt = document.prompt
    if not prompt:
        template = OPENAI_ERRORS.empty_string if isinstance(prompt, str) else OPENAI_ERRORS.empty_array
        raise BadRequest(template.format(field="prompt"), param="prompt")
    has_several_prompts = isinstance(prompt, list) and not isinstance(prompt[0], int)
    text = prompt if isinstance(prompt, str) else next((text for text in prompt if isinstance(text, str)), "")
    stream = bool(document.stream)
    options = chat.stream_options(document.stream_options)
    wants_usage = bool(options and options.get("include_usage"))
    choices_per_prompt = max(
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
        max_output_tokens=bodies.check_output_limit("max_tokens", document.max_tokens),
        choice_count=choices_per_prompt * (len(prompt) if has_several_prompts else 1),
        tool_names=frozenset(),
        has_schema=False,
        user=bodies.end_user(document),
        price_terms=terms.tier_terms(document),
    )


def upstream_body(request: Request, model: str, *, ask_usage: bool) -> tuple[bytes | memoryview, ...]:
    """Return the caller's body with the deployment's model name and, if `ask_usage`, usage reporting switched on."""
    return chat.upstream_body(request, model, ask_usage=ask_usage)


def stream_meter(request: Request) -> ChatStreamMeter:
    """Create the meter of a streamed answer."""
    return ChatStreamMeter(withhold_usage=not request.wants_usage)


def failed_answer(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the error body behind an unstreamed answer that is a failure, None for an answer."""
    return answer_failure.failed_chat_answer(document, part="text")


def answer_events_of(document: Mapping[str, Any]) -> bytes | None:
    """Return an unstreamed answer as the events of a stream, None where that is not possible."""
    return answer_events.completion_events(document)


def answer_text_bytes(document: Mapping[str, Any]) -> int:
    """Return the UTF-8 bytes of text in an unstreamed answer."""
    choices = document.get("choices")
    choices = choices if isinstance(choices, list) else []
    return sum(utf8_bytes(choice.get("text")) for choice in choices if isinstance(choice, dict))


def refusal_response(refusal: Refusal) -> CallerResponse:
    """Build the response to a refusal, in OpenAI's shape."""
    return openai_errors.refusal_response(refusal)


def error_response(error: PenstockError) -> CallerResponse:
    """Build the response to an error, in OpenAI's shape."""
    return openai_errors.error_response(error)


def error_event(error: PenstockError) -> bytes:
    """Build the events for a failure mid-stream: a top-level `error`, which SDKs raise, and the end mark."""
    return chat.error_event(error)
