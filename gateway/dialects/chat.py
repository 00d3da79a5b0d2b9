"""OpenAI chat completions, caller side: body -> Request, upstream body, answers and errors.

The provider receives the caller's own bytes with at most two splices: `model`, and `stream_options.include_usage` where
a stream has to report usage.
"""

import re
from collections.abc import Iterator, Mapping
from operator import attrgetter
from typing import Any

import msgspec

from ..values.caller_response import CallerResponse
from ..values.errors import BadRequest, PenstockError
from ..values.plan import Refusal
from ..values.request import ABSENT, NO_PROVIDER_STATE, PARTS_SIZE, TOOLS_BYTES_MAX, Message, Request, Splice
from ..values.usage import STANDARD_TERMS, PriceTerms
from . import answer_events, answer_failure, openai_errors
from . import body as bodies
from . import price_terms as terms
from .body import DECODE_ERRORS, check_count, is_present
from .body_errors import OPENAI_ERRORS, wrong_type_error
from .chat_stream import ChatStreamMeter, text_bytes
from .stored_objects import StateKinds

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
    modalities: Any = None
    web_search_options: Any = None
    search_parameters: Any = None
    plugins: Any = None
    enable_search: Any = None
    models: Any = None
    fallbacks: Any = None


class _ChatFunction(msgspec.Struct, gc=False):
    name: str = ""


class _ChatTool(msgspec.Struct, gc=False):
    function: _ChatFunction | None = None
    type: Any = None


class _ChatFormat(msgspec.Struct, gc=False):
    type: str = ""


_READER = bodies.BodyReader(_ChatFields, required="messages")
_TOOLS = msgspec.json.Decoder(list[_ChatTool])
_FORMAT = msgspec.json.Decoder(_ChatFormat)
_STREAM_OPTIONS = msgspec.json.Decoder(dict[str, Any] | None)
# Fields that change the price; absent in most requests.
_PRICE_FIELDS = (
    "service_tier", "speed", "inference_geo", "modalities", "web_search_options", "search_parameters", "plugins",
    "enable_search", "models", "fallbacks",
)  # fmt: skip
_get_price_fields = attrgetter(*_PRICE_FIELDS)
_NO_PRICE_FIELDS = (None,) * len(_PRICE_FIELDS)
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
    tools = _decoded_tools(document.tools)
    kinds = StateKinds()
    has_audio = _read_parts(messages, sizes, kinds)
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
        tool_names=_tool_names(tools),
        tools_head=bodies.first_bytes(document.tools, TOOLS_BYTES_MAX),
        has_schema=_has_schema(document.response_format),
        user=bodies.end_user(document),
        session_fields=bodies.session_id_fields(document),
        provider_state=frozenset(kinds) if kinds else NO_PROVIDER_STATE,
        attached_ids=kinds.file_ids if kinds else (),
        price_terms=_price_terms(document, tools, has_audio=has_audio),
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


def failed_answer(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the error body behind an unstreamed answer that is a failure, None for an answer."""
    return answer_failure.failed_chat_answer(document, part="message")


def answer_events_of(document: Mapping[str, Any]) -> bytes | None:
    """Return an unstreamed answer as the events of a stream, None where that is not possible."""
    return answer_events.chat_events(document)


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


def _decoded_tools(tools: msgspec.Raw) -> list[_ChatTool] | None:
    """The offered tools, None where they have another shape."""
    if not is_present(tools):
        return []
    try:
        return _TOOLS.decode(tools)
    except DECODE_ERRORS:
        return None


def _tool_names(tools: list[_ChatTool] | None) -> frozenset[str]:
    """Names of the offered functions; tools of other kinds are left to the provider."""
    return frozenset([tool.function.name for tool in tools or () if tool.function is not None])


def _price_terms(document: _ChatFields, tools: list[_ChatTool] | None, *, has_audio: bool) -> PriceTerms:
    """What the request asks for that changes its price; looks closer only where a field says so."""
    has_tools = tools is None or any(terms.runs_at_provider(tool.type) for tool in tools)
    if not has_tools and not has_audio and _get_price_fields(document) == _NO_PRICE_FIELDS:
        return STANDARD_TERMS
    return terms.price_terms(
        document,
        tools=(document.tools,) if has_tools else (),
        searches=_searches(document),
        others=terms.OtherModels(document.models, document.fallbacks),
        modalities=document.modalities,
        has_audio_input=has_audio,
    )


def _searches(document: _ChatFields) -> Iterator[Any]:
    """Options of searches that run once: the fields of OpenAI, Alibaba, xAI and OpenRouter."""
    if document.web_search_options is not None:
        yield document.web_search_options
    if document.enable_search is True:
        yield None
    parameters, plugins = document.search_parameters, document.plugins
    if isinstance(parameters, dict) and parameters.get("mode") != "off":
        # xAI bills each source (docs.x.ai, live search, 2025-12): 20 where the request sets no limit.
        yield {"max_search_results": 20, **parameters}
    for plugin in plugins if isinstance(plugins, list) else ():
        if isinstance(plugin, dict) and plugin.get("id") == "web":
            yield plugin


def _has_schema(format_: msgspec.Raw) -> bool:
    if not is_present(format_):
        return False
    try:
        return _FORMAT.decode(format_).type in ("json_schema", "json_object")
    except DECODE_ERRORS:
        return False


def _max_output_tokens(document: _ChatFields) -> int | None:
    newer = bodies.check_output_limit("max_completion_tokens", document.max_completion_tokens)
    older = bodies.check_output_limit("max_tokens", document.max_tokens)
    return newer if older is None else older if newer is None else max(newer, older)


def _read_parts(messages: list[Message], sizes: list[int], kinds: StateKinds) -> bool:
    """Whether the history has audio; kinds of provider-bound state (files by id, thinking) are added to `kinds`."""
    has_audio = False
    for message, size in zip(messages, sizes, strict=True):
        if size == PARTS_SIZE and isinstance(message.content, list):
            for part in message.content:
                if isinstance(part, dict):
                    file = part.get("file")
                    if isinstance(file, dict) and isinstance(file.get("file_id"), str):
                        kinds.add_file(file["file_id"])
                    has_audio = has_audio or "input_audio" in part
        if message.thinking_blocks is not ABSENT and bytes(message.thinking_blocks) not in _NO_THINKING_BLOCKS:
            kinds.add("thinking")
    return has_audio
