"""Anthropic Messages, caller side: body -> Request, answers, and our errors in Anthropic's shape.

For what reads a conversation (sessions, loop guard, facts) the messages are mapped to the shape of chat completions:
each tool result becomes a message of its own, the system prompt the first one.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import orjson

from ..values.caller_response import CallerResponse
from ..values.errors import BadRequest, CallerError, Overloaded, PenstockError, Unauthenticated
from ..values.plan import Refusal
from ..values.request import ABSENT, NO_PROVIDER_STATE, TOOLS_BYTES_MAX, Message, Request
from . import body as bodies
from .body import DECODE_ERRORS, check_count, is_present
from .chat import message_sizes
from .messages_stream import MessagesStreamMeter
from .sse import encode_event, utf8_bytes

_JSON = "application/json"
# What begins the signature of thinking that came from a deployment without signatures: it proves nothing to Anthropic.
UNSIGNED_SIGNATURE_PREFIX = "penstock-unsigned"
# Agents add notes of their own beside tool results; these are no turn of a person.
_REMINDER_TAG = "<system-reminder>"
# The types of error that Anthropic documents, by status (docs.anthropic.com, errors, 2026).
_ERROR_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error",
    404: "not_found_error", 409: "conflict_error", 413: "request_too_large", 429: "rate_limit_error", 503: "overloaded_error",
    504: "timeout_error", 529: "overloaded_error",
}  # fmt: skip


class _Block(msgspec.Struct, gc=False):
    """One content block; of big ones (images, documents) only the source is kept."""

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


class _InputMessage(msgspec.Struct, gc=False):
    role: str
    content: str | list[_Block]


class _MessagesFields(bodies.BodyFields, gc=False, kw_only=True):
    """The fields that we act on; everything else is checked to be JSON and skipped."""

    messages: list[_InputMessage]
    system: str | list[_Block] | None = None
    stream: bool | None = None
    max_tokens: int | None = None
    tools: msgspec.Raw = ABSENT
    output_config: msgspec.Raw = ABSENT
    output_format: msgspec.Raw = ABSENT


class _MessagesTool(msgspec.Struct, gc=False):
    name: str = ""


class _OutputConfig(msgspec.Struct, gc=False):
    format: Any = None


class _Metadata(msgspec.Struct, gc=False):
    user_id: Any = None


_READER = bodies.BodyReader(_MessagesFields, required="messages")
_TOOLS = msgspec.json.Decoder(list[_MessagesTool])
_OUTPUT_CONFIG = msgspec.json.Decoder(_OutputConfig | None)
_METADATA = msgspec.json.Decoder(_Metadata | None)


def parse(body: bytes | bytearray) -> Request:
    """Read one Messages body. Raises BadRequest with a sentence that names the field. A bytearray is taken over."""
    if isinstance(body, bytes):
        body = bytearray(body)
    document, span = _READER.read(body)
    if not document.messages:
        raise BadRequest("'messages' must be a non-empty array.", param="messages")
    kinds: set[str] = set()
    messages = list(_to_chat_messages(document, kinds))
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
        max_output_tokens=check_count("max_tokens", document.max_tokens, bodies.OUTPUT_TOKENS_MAX),
        choice_count=1,
        tool_names=_tool_names(document.tools),
        tools_head=bodies.first_bytes(document.tools, TOOLS_BYTES_MAX),
        has_schema=_has_schema(document),
        provider_state=frozenset(kinds) if kinds else NO_PROVIDER_STATE,
    )


def upstream_body(request: Request, model: str, *, ask_usage: bool) -> tuple[bytes | memoryview, ...]:
    """The caller's body with the deployment's model name in it; usage comes unasked."""
    return bodies.splice_model(request, model)


def stream_meter(request: Request) -> MessagesStreamMeter:
    """What reads the answer as it streams by."""
    return MessagesStreamMeter()


def answer_text_bytes(document: Mapping[str, Any]) -> int:
    """Bytes of text in a whole answer."""
    content, found = document.get("content"), 0
    for block in content if isinstance(content, list) else ():
        if isinstance(block, dict):
            found += utf8_bytes(block.get("text")) + utf8_bytes(block.get("thinking"))
            found += len(orjson.dumps(block["input"])) if "input" in block else 0
    return found


def refusal_answer(refusal: Refusal) -> CallerResponse:
    """A refusal that agents obey: 402 stops every Anthropic client that was measured at once, where 400 makes Claude
    Code drop its beta headers and try again."""
    headers = {"content-type": _JSON, "x-should-retry": "false"}
    status = refusal.status or (402 if refusal.param is None else 400)
    if refusal.retry_after_seconds is not None:
        status = refusal.status or 429
        headers = {"content-type": _JSON, "retry-after": str(refusal.retry_after_seconds)}
    error = {"type": error_type_of(status), "message": refusal.message, "code": refusal.code, "param": refusal.param}
    if refusal.details:
        error["details"] = dict(refusal.details)  # type: ignore[assignment]
    return CallerResponse(status=status, headers=headers, body=orjson.dumps({"type": "error", "error": error}))


def error_answer(error: PenstockError) -> CallerResponse:
    """An error of the tree. Callers' mistakes and what we have already retried are not to be retried."""
    headers = {"content-type": _JSON}
    if error.retry_after_seconds is not None:
        headers["retry-after"] = str(error.retry_after_seconds)
    elif not isinstance(error, Overloaded):
        headers["x-should-retry"] = "false"
    return CallerResponse(status=error.status, headers=headers, body=orjson.dumps(_error_body(error)))


def error_event(error: PenstockError) -> bytes:
    """A failure after the answer began: Anthropic's own error event, which its SDKs raise."""
    return encode_event(_error_body(error), named=True)


def error_type_of(status: int) -> str:
    """Anthropic's type of error for a status."""
    return _ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")


def _error_body(error: PenstockError) -> dict[str, Any]:
    kind = error_type_of(error.status)
    if isinstance(error, CallerError) and not isinstance(error, Unauthenticated) and error.status not in _ERROR_TYPES:
        kind = "invalid_request_error"
    return {
        "type": "error",
        "error": {"type": kind, "message": error.message, "code": error.code, "param": error.param},
    }


def _to_chat_messages(document: _MessagesFields, kinds: set[str]) -> Iterator[Message]:
    """The conversation in the shape of chat completions; what binds it to a provider goes into `kinds`."""
    system = document.system
    if system:
        yield Message("system", system if isinstance(system, str) else _text(system))
    for said in document.messages:
        if isinstance(said.content, str):
            yield Message(said.role, said.content)
        elif said.role == "assistant":
            yield _assistant_message(said.content, kinds)
        else:
            yield from _user_messages(said.role, said.content, kinds)


def _assistant_message(blocks: list[_Block], kinds: set[str]) -> Message:
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


def _user_messages(role: str, blocks: list[_Block], kinds: set[str]) -> Iterator[Message]:
    results, said, media = 0, [], []
    for block in blocks:
        if block.type == "tool_result":
            results += 1
            yield Message("tool", _tool_result(block.content), ABSENT, block.tool_use_id, block.is_error)
        elif isinstance(block.text, str):
            said.append(block.text)
        elif isinstance(block.source, dict):
            if isinstance(block.source.get("file_id"), str):
                kinds.add("file")
            if block.type == "image":
                media.append(_media_part(block.source))
    if results:
        said = [text for text in said if not text.startswith(_REMINDER_TAG)]
    if media:
        yield Message(role, [*({"text": text} for text in said), *media])
    elif said or not results:
        yield Message(role, said[0] if len(said) == 1 else "\n".join(said))


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
    """How big inline media are, and what tells them from others."""
    data = source.get("data")
    told = next((one for one in (data, source.get("url"), source.get("file_id")) if isinstance(one, str)), "")
    return {"media_bytes": utf8_bytes(data), "media": told[-64:]}


def _text(blocks: list[_Block]) -> str:
    texts = [block.text for block in blocks if isinstance(block.text, str)]
    return texts[0] if len(texts) == 1 else "\n".join(texts)


def _end_user(metadata: msgspec.Raw) -> str:
    if not is_present(metadata):
        return ""
    try:
        told = _METADATA.decode(metadata)
    except DECODE_ERRORS:
        return ""
    return told.user_id if told is not None and isinstance(told.user_id, str) else ""


def _tool_names(tools: msgspec.Raw) -> frozenset[str]:
    if not is_present(tools):
        return frozenset()
    try:
        return frozenset(tool.name for tool in _TOOLS.decode(tools))
    except DECODE_ERRORS:
        return frozenset()


def _has_schema(document: _MessagesFields) -> bool:
    if is_present(document.output_format):
        return True
    try:
        config = _OUTPUT_CONFIG.decode(document.output_config) if is_present(document.output_config) else None
    except DECODE_ERRORS:
        return False
    return config is not None and config.format is not None
