"""Anthropic Messages, caller side: body -> Request, answers and errors in Anthropic's shape.

Sessions, the loop guard and request features read messages in the shape of chat completions: each tool result becomes
a message of its own, the system prompt the first one.
"""

from collections.abc import Iterator, Mapping
from operator import attrgetter
from typing import Any

import msgspec
import orjson

from ..values.caller_response import CallerResponse
from ..values.errors import BadRequest, CallerError, Overloaded, PenstockError, Unauthenticated
from ..values.plan import Refusal
from ..values.request import ABSENT, NO_PROVIDER_STATE, TOOLS_BYTES_MAX, Message, Request
from ..values.usage import STANDARD_TERMS, PriceTerms
from . import answer_events, answer_failure
from . import body as bodies
from . import price_terms as terms
from .body import DECODE_ERRORS, check_count, is_present
from .body_errors import ANTHROPIC_ERRORS
from .chat import message_sizes
from .messages_stream import MessagesStreamMeter
from .sse import encode_event, utf8_bytes
from .stored_objects import StateKinds

_JSON = "application/json"
# Prefix of the signature put on thinking from a deployment without signatures; Anthropic does not accept it.
UNSIGNED_SIGNATURE_PREFIX = "penstock-unsigned"
# Agents add their own notes beside tool results; these are not user turns.
_REMINDER_TAG = "<system-reminder>"
# Anthropic's documented error types by status (docs.anthropic.com, errors, 2026).
_ERROR_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error",
    404: "not_found_error", 409: "conflict_error", 413: "request_too_large", 429: "rate_limit_error", 503: "overloaded_error",
    504: "timeout_error", 529: "overloaded_error",
}  # fmt: skip


class _Block(msgspec.Struct, gc=False):
    """One content block; of images and documents only the source is kept."""

    type: str = ""
    text: Any = None
    id: Any = None
    name: Any = None
    input: msgspec.Raw = ABSENT
    tool_use_id: Any = None
    is_error: Any = None
    content: Any = None
    signature: Any = None
    source: Any = None
    file_id: Any = None


class _InputMessage(msgspec.Struct, gc=False):
    role: str
    content: str | list[_Block]


class _MessagesFields(bodies.BodyFields, gc=False, kw_only=True):
    """The fields the gateway acts on; all others are only checked to be JSON."""

    messages: list[_InputMessage]
    system: str | list[_Block] | None = None
    stream: bool | None = None
    max_tokens: int | None = None
    tools: msgspec.Raw = ABSENT
    output_config: msgspec.Raw = ABSENT
    output_format: msgspec.Raw = ABSENT
    context_management: Any = None
    compaction: Any = None
    fallbacks: Any = None


class _MessagesTool(msgspec.Struct, gc=False):
    name: str = ""
    type: Any = None


class _OutputConfig(msgspec.Struct, gc=False):
    format: Any = None


class _Metadata(msgspec.Struct, gc=False):
    user_id: Any = None


_READER = bodies.BodyReader(_MessagesFields, required="messages", texts=ANTHROPIC_ERRORS)
_TOOLS = msgspec.json.Decoder(list[_MessagesTool])
_OUTPUT_CONFIG = msgspec.json.Decoder(_OutputConfig | None)
# Fields that change the price; absent in most requests.
_PRICE_FIELDS = ("service_tier", "speed", "inference_geo", "context_management", "compaction", "fallbacks")
_get_price_fields = attrgetter(*_PRICE_FIELDS)
_NO_PRICE_FIELDS = (None,) * len(_PRICE_FIELDS)
_METADATA = msgspec.json.Decoder(_Metadata | None)


def parse(body: bytes | bytearray) -> Request:
    """Parse a Messages body. Raises BadRequest naming the field. A bytearray is kept, not copied."""
    if isinstance(body, bytes):
        body = bytearray(body)
    document, span = _READER.read(body)
    if not document.messages:
        raise BadRequest(ANTHROPIC_ERRORS.empty_array.format(field="messages"), param="messages")
    kinds = StateKinds()
    messages = list(_to_chat_messages(document, kinds))
    tools = _decoded_tools(document.tools)
    return Request(
        dialect="messages",
        body=body,
        model=document.masked_model,
        model_span=span,
        messages=messages,
        sizes=message_sizes(messages),
        stream=bool(document.stream),
        wants_usage=True,
        usage_splice=None,
        user=_end_user(document.metadata),
        session_fields=bodies.session_id_fields(document),
        max_output_tokens=_max_output_tokens(document),
        choice_count=1,
        tool_names=frozenset([tool.name for tool in tools or ()]),
        tools_head=bodies.first_bytes(document.tools, TOOLS_BYTES_MAX),
        has_schema=_has_schema(document),
        provider_state=frozenset(kinds) if kinds else NO_PROVIDER_STATE,
        attached_ids=kinds.file_ids if kinds else (),
        price_terms=_price_terms(document, tools),
    )


def _max_output_tokens(document: _MessagesFields) -> int | None:
    """The output limit; 0 fills the prompt cache without an answer (Anthropic, prompt caching, 2026)."""
    if document.max_tokens == 0:
        return 0
    return check_count("max_tokens", document.max_tokens, bodies.OUTPUT_TOKENS_MAX, texts=ANTHROPIC_ERRORS)


def upstream_body(request: Request, model: str, *, ask_usage: bool) -> tuple[bytes | memoryview, ...]:
    """Return the caller's body with the deployment's model name; usage is always reported."""
    return bodies.splice_model(request, model)


def stream_meter(request: Request) -> MessagesStreamMeter:
    """Create the meter of a streamed answer."""
    return MessagesStreamMeter()


def failed_answer(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the error body behind an unstreamed answer that is a failure, None for an answer."""
    return answer_failure.failed_answer(document, lambda answer: isinstance(answer.get("content"), list))


def answer_events_of(document: Mapping[str, Any]) -> bytes | None:
    """Return an unstreamed answer as the events of a stream, None where that is not possible."""
    return answer_events.message_events(document)


def answer_text_bytes(document: Mapping[str, Any]) -> int:
    """Return the UTF-8 bytes of text in an unstreamed answer."""
    content, size = document.get("content"), 0
    for block in content if isinstance(content, list) else ():
        if isinstance(block, dict):
            size += utf8_bytes(block.get("text")) + utf8_bytes(block.get("thinking"))
            size += len(orjson.dumps(block["input"])) if "input" in block else 0
    return size


def refusal_response(refusal: Refusal) -> CallerResponse:
    """Build the response to a refusal: 402, on which all measured Anthropic clients stop.

    On 400 Claude Code drops its beta headers and retries.
    """
    headers = {"content-type": _JSON, "x-should-retry": "false"}
    status = refusal.status or (402 if refusal.param is None else 400)
    if refusal.retry_after_seconds is not None:
        status = refusal.status or 429
        headers = {"content-type": _JSON, "retry-after": str(refusal.retry_after_seconds)}
    error = {"type": error_type_of(status), "message": refusal.message, "code": refusal.code, "param": refusal.param}
    if refusal.details:
        error["details"] = dict(refusal.details)  # type: ignore[assignment]
    return CallerResponse(status=status, headers=headers, body=orjson.dumps({"type": "error", "error": error}))


def error_response(error: PenstockError) -> CallerResponse:
    """Build the response to an error; it asks for no retry of callers' mistakes and of what was already retried."""
    headers = {"content-type": _JSON, **error.headers}
    if error.retry_after_seconds is not None:
        headers["retry-after"] = str(error.retry_after_seconds)
    elif not isinstance(error, Overloaded):
        headers["x-should-retry"] = "false"
    return CallerResponse(status=error.status, headers=headers, body=orjson.dumps(_error_body(error)))


def error_event(error: PenstockError) -> bytes:
    """Build the event for a failure mid-stream: Anthropic's error event, which its SDKs raise."""
    return encode_event(_error_body(error), named=True)


def error_type_of(status: int) -> str:
    """Return Anthropic's error type for a status."""
    return _ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")


def _error_body(error: PenstockError) -> dict[str, Any]:
    kind = error_type_of(error.status)
    if isinstance(error, CallerError) and not isinstance(error, Unauthenticated) and error.status not in _ERROR_TYPES:
        kind = "invalid_request_error"
    return {
        "type": "error",
        "error": {"type": kind, "message": error.message, "code": error.code, "param": error.param},
    }


def _to_chat_messages(document: _MessagesFields, kinds: StateKinds) -> Iterator[Message]:
    """The conversation in the shape of chat completions; kinds of provider-bound state are added to `kinds`."""
    system = document.system
    if system:
        yield Message("system", system if isinstance(system, str) else _text(system))
    for message in document.messages:
        if isinstance(message.content, str):
            yield Message(message.role, message.content)
        elif message.role == "assistant":
            yield _assistant_message(message.content, kinds)
        else:
            yield from _user_messages(message.role, message.content, kinds)


def _assistant_message(blocks: list[_Block], kinds: StateKinds) -> Message:
    calls = []
    for block in blocks:
        if block.type == "tool_use":
            calls.append({"id": block.id, "function": {"name": block.name, "arguments": block.input}})
        elif block.type == "thinking":
            unsigned = isinstance(block.signature, str) and block.signature.startswith(UNSIGNED_SIGNATURE_PREFIX)
            kinds.add("unsigned_thinking" if unsigned else "thinking")
        elif block.type == "redacted_thinking":
            kinds.add("thinking")
    return Message("assistant", _text(blocks), msgspec.Raw(msgspec.json.encode(calls)) if calls else ABSENT)


def _user_messages(role: str, blocks: list[_Block], kinds: StateKinds) -> Iterator[Message]:
    result_count, texts, media = 0, [], []
    for block in blocks:
        if block.type == "tool_result":
            result_count += 1
            yield Message("tool", _tool_result(block.content), ABSENT, block.tool_use_id, block.is_error)
        elif isinstance(block.text, str):
            texts.append(block.text)
        elif block.type == "container_upload" and isinstance(block.file_id, str):
            kinds.add_file(block.file_id)
        elif isinstance(block.source, dict):
            if isinstance(block.source.get("file_id"), str):
                kinds.add_file(block.source["file_id"])
            if block.type == "image":
                media.append(_media_part(block.source))
    if result_count:
        texts = [text for text in texts if not text.startswith(_REMINDER_TAG)]
    if media:
        yield Message(role, [*({"text": text} for text in texts), *media])
    elif texts or not result_count:
        yield Message(role, texts[0] if len(texts) == 1 else "\n".join(texts))


def _tool_result(content: Any) -> str | list[Any] | None:
    if not isinstance(content, list):
        return content if isinstance(content, str) else None
    parts: list[Any] = []
    for part in content:
        if isinstance(part, dict):
            source = part.get("source")
            parts.append(_media_part(source) if isinstance(source, dict) else {"text": part.get("text")})
    if len(parts) == 1 and isinstance(parts[0].get("text"), str):
        return str(parts[0]["text"])
    return parts


def _media_part(source: dict[str, Any]) -> dict[str, Any]:
    """The size of inline media, and the end of their data, URL or id to distinguish them."""
    data = source.get("data")
    sources = (data, source.get("url"), source.get("file_id"))
    identity = next((value for value in sources if isinstance(value, str)), "")
    return {"media_bytes": utf8_bytes(data), "media": identity[-64:]}


def _text(blocks: list[_Block]) -> str:
    texts = [block.text for block in blocks if isinstance(block.text, str)]
    return texts[0] if len(texts) == 1 else "\n".join(texts)


def _end_user(metadata: msgspec.Raw) -> str:
    if not is_present(metadata):
        return ""
    try:
        decoded = _METADATA.decode(metadata)
    except DECODE_ERRORS:
        return ""
    return decoded.user_id if decoded is not None and isinstance(decoded.user_id, str) else ""


def _decoded_tools(tools: msgspec.Raw) -> list[_MessagesTool] | None:
    """The offered tools, None where they have another shape."""
    if not is_present(tools):
        return []
    try:
        return _TOOLS.decode(tools)
    except DECODE_ERRORS:
        return None


def _price_terms(document: _MessagesFields, tools: list[_MessagesTool] | None) -> PriceTerms:
    """What the request asks for that changes its price; looks closer only where a field says so."""
    has_tools = tools is None or any(terms.runs_at_provider(tool.type) for tool in tools)
    if not has_tools and _get_price_fields(document) == _NO_PRICE_FIELDS:
        return STANDARD_TERMS
    return terms.price_terms(
        document,
        tools=(document.tools,) if has_tools else (),
        summarizes=terms.may_summarize(document.context_management, document.compaction),
        others=terms.OtherModels(None, document.fallbacks),
    )


def _has_schema(document: _MessagesFields) -> bool:
    if is_present(document.output_format):
        return True
    try:
        config = _OUTPUT_CONFIG.decode(document.output_config) if is_present(document.output_config) else None
    except DECODE_ERRORS:
        return False
    return config is not None and config.format is not None
