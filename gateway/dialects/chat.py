"""OpenAI chat completions, caller side: body -> Request, upstream body, answers and errors.

The provider receives the caller's own bytes with at most two splices: `model`, and `stream_options.include_usage` where
a stream has to report usage.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from ..values.caller_response import CallerResponse
from ..values.errors import BadRequest, PenstockError
from ..values.plan import Refusal
from ..values.request import ABSENT, NO_PROVIDER_STATE, PARTS_SIZE, TOOLS_BYTES_MAX, Message, Request, Splice
from . import body as bodies
from . import openai_errors
from .body import DECODE_ERRORS, check_count, is_present
from .body_errors import OPENAI_ERRORS, wrong_type_error
from .chat_stream import ChatStreamMeter, text_bytes

_CHOICES_MAX = 128
_NO_THINKING_BLOCKS = (b"null", b"[]")


class _ChatFields(bodies.BodyFields, gc=False, kw_only=True):
    """The fields the gateway acts on; all others are only checked to be JSON."""

    messages: list[Message]
    stream: bool | None = None
    stream_options: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    tools: msgspec.Raw = ABSENT
    response_format: msgspec.Raw = ABSENT


class _ChatFunction(msgspec.Struct, gc=False):
    name: str = ""


class _ChatTool(msgspec.Struct, gc=False):
    function: _ChatFunction | None = None


class _ChatFormat(msgspec.Struct, gc=False):
    type: str = ""


_READER = bodies.BodyReader(_ChatFields, required="messages")
_TOOLS = msgspec.json.Decoder(list[_ChatTool])
_FORMAT = msgspec.json.Decoder(_ChatFormat)
_STREAM_OPTIONS = msgspec.json.Decoder(dict[str, Any] | None)
_USAGE_OFF = re.compile(rb'"include_usage"\s*:\s*(false|null)')


def parse(body: bytes | bytearray) -> Request:
    """Parse a chat-completions body. Raises BadRequest naming the field.

    A bytearray is kept, not copied: the caller of this function must not change it afterwards.
    """
    if isinstance(body, bytes):
        body = bytearray(body)
    document, span = _READER.read(body)
    messages = document.messages
    if not messages:
        raise BadRequest(OPENAI_ERRORS.empty_array.format(field="messages"), param="messages")
    stream = bool(document.stream)
    options = stream_options(document.stream_options)
    wants_usage = bool(options and options.get("include_usage"))
    sizes = message_sizes(messages)
    return Request(
        dialect="chat",
        body=body,
        model=document.masked_model,
        model_span=span,
        messages=messages,
        sizes=sizes,
        stream=stream,
        wants_usage=wants_usage,
        usage_splice=(
            usage_splice(_READER, body, document.stream_options, options) if stream and not wants_usage else None
        ),
        max_output_tokens=_max_output_tokens(document),
        choice_count=check_count("n", document.n, _CHOICES_MAX) or 1,
        tool_names=_tool_names(document.tools),
        tools_head=bodies.first_bytes(document.tools, TOOLS_BYTES_MAX),
        has_schema=_has_schema(document.response_format),
        user=bodies.end_user(document),
        session_fields=bodies.session_id_fields(document),
        provider_state=_provider_state(messages, sizes),
    )


def message_sizes(messages: list[Message]) -> list[int]:
    """Return the characters of each message's text, PARTS_SIZE where it is a list."""
    return [
        len(content) if type(content := message.content) is str else PARTS_SIZE if content is not None else 0
        for message in messages
    ]


def upstream_body(request: Request, model: str, *, ask_usage: bool) -> tuple[bytes | memoryview, ...]:
    """Return the caller's body with the deployment's model name and, if `ask_usage`, usage reporting switched on."""
    edits = (request.usage_splice,) if ask_usage and request.usage_splice is not None else ()
    return bodies.splice_model(request, model, edits)


def stream_meter(request: Request) -> ChatStreamMeter:
    """Create the meter of a streamed answer."""
    return ChatStreamMeter(withhold_usage=not request.wants_usage)


def answer_text_bytes(document: Mapping[str, Any]) -> int:
    """Return the UTF-8 bytes of text in an unstreamed answer."""
    choices = document.get("choices")
    choices = choices if isinstance(choices, list) else []
    messages = [choice.get("message") for choice in choices if isinstance(choice, dict)]
    return sum(text_bytes(message) for message in messages if isinstance(message, dict))


def refusal_response(refusal: Refusal) -> CallerResponse:
    """Build the response to a refusal: 400, on which all measured clients stop; 429 only where waiting helps."""
    return openai_errors.refusal_response(refusal)


def error_response(error: PenstockError) -> CallerResponse:
    """Build the response to an error, in OpenAI's shape."""
    return openai_errors.error_response(error)


def error_event(error: PenstockError) -> bytes:
    """Build the events for a failure mid-stream: a top-level `error`, which SDKs raise, and the end mark."""
    return b"data: " + openai_errors.error_body(error) + b"\n\ndata: [DONE]\n\n"


def stream_options(raw: msgspec.Raw | msgspec.UnsetType) -> dict[str, Any] | None:
    """Return the parsed stream_options, None if absent or null. Raises BadRequest."""
    if isinstance(raw, msgspec.UnsetType):
        return None
    try:
        options: dict[str, Any] | None = _STREAM_OPTIONS.decode(raw)
    except DECODE_ERRORS:
        raise BadRequest("Invalid type for 'stream_options': expected an object.", param="stream_options") from None
    if options and not isinstance(options.get("include_usage"), bool | None):
        raise wrong_type_error("stream_options.include_usage", "bool", options["include_usage"], OPENAI_ERRORS)
    return options


def usage_splice(
    reader: bodies.BodyReader[Any],
    body: bytearray,
    raw: msgspec.Raw | msgspec.UnsetType,
    options: dict[str, Any] | None,
) -> Splice:
    """Return the edit that switches usage reporting on and changes nothing else. Raises BadRequest."""
    if isinstance(raw, msgspec.UnsetType):
        opening = body.index(b"{") + 1
        return Splice(start=opening, end=opening, text=b'"stream_options":{"include_usage":true},')
    text = bytes(raw)
    start = reader.value_offset(body, b'"stream_options"', text, "stream_options")
    if options is None:
        return Splice(start=start, end=start + len(text), text=b'{"include_usage":true}')
    if "include_usage" not in options:
        addition = b'"include_usage":true' + (b"," if options else b"")
        return Splice(start=start + 1, end=start + 1, text=addition)
    expected = {**options, "include_usage": True}
    for match in _USAGE_OFF.finditer(text):
        if _STREAM_OPTIONS.decode(text[: match.start(1)] + b"true" + text[match.end(1) :]) == expected:
            return Splice(start=start + match.start(1), end=start + match.end(1), text=b"true")
    param = "stream_options.include_usage"
    raise BadRequest(OPENAI_ERRORS.ambiguous.format(field=param), param=param)


def _tool_names(tools: msgspec.Raw) -> frozenset[str]:
    """Names of the offered functions; tools of other kinds are left to the provider."""
    if not is_present(tools):
        return frozenset()
    try:
        return frozenset(tool.function.name for tool in _TOOLS.decode(tools) if tool.function is not None)
    except DECODE_ERRORS:
        return frozenset()


def _has_schema(format_: msgspec.Raw) -> bool:
    if not is_present(format_):
        return False
    try:
        return _FORMAT.decode(format_).type in ("json_schema", "json_object")
    except DECODE_ERRORS:
        return False


def _max_output_tokens(document: _ChatFields) -> int | None:
    newer = check_count("max_completion_tokens", document.max_completion_tokens, bodies.OUTPUT_TOKENS_MAX)
    older = check_count("max_tokens", document.max_tokens, bodies.OUTPUT_TOKENS_MAX)
    return newer if older is None else older if newer is None else max(newer, older)


def _provider_state(messages: list[Message], sizes: list[int]) -> frozenset[str]:
    """Kinds of provider-bound state in the history: files by id, signed thinking."""
    kinds = None
    for message, size in zip(messages, sizes, strict=True):
        if size == PARTS_SIZE and _has_file_id(message.content):
            kinds = {*(kinds or ()), "file"}
        if message.thinking_blocks is not ABSENT and bytes(message.thinking_blocks) not in _NO_THINKING_BLOCKS:
            kinds = {*(kinds or ()), "thinking"}
    return NO_PROVIDER_STATE if kinds is None else frozenset(kinds)


def _has_file_id(content: Any) -> bool:
    parts = content if isinstance(content, list) else ()
    files = (part.get("file") for part in parts if isinstance(part, dict))
    return any(isinstance(file, dict) and isinstance(file.get("file_id"), str) for file in files)
