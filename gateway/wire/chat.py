"""OpenAI chat completions, caller side: body -> Request, the two edits that we make in it, and our error bodies.

The body is parsed once, for reading. What is sent on is the caller's own bytes with at most two splices (`model`, and
`stream_options.include_usage` where a stream has to report usage), so unknown fields, field order and big numbers
reach the provider unchanged.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import orjson

from ..errors import BadRequest, CallerError, Overloaded, PenstockError
from ..values.answer import Answer
from ..values.plan import Refusal
from ..values.request import PARTS, Message, Request, Splice

# A key of the same length that takes the place of "model" while the body is parsed: if `model` is then gone from the
# top level, the key that we renamed was the top level's only one, written in any way JSON allows.
_KEY, _RENAMED = b'"model"', b'"_odel"'
_KEY_AND_QUOTE = re.compile(rb'"model"\s*:\s*"')
_VALUE = re.compile(rb'\s*:\s*("[^"\\]*(?:\\.[^"\\]*)*")')
# Where the key is looked for first: SDKs write it at the head, or after the messages, near the tail.
_HEAD, _TAIL = 512, 8192
# More keys called "model" than this, none of them the request's own, and the body is refused rather than searched.
_CANDIDATES_MAX = 8
_MODEL_CHARS_MAX = 256
# Above any model's output limit; larger numbers are mistakes, and would lock a budget.
_MAX_TOKENS_MAX = 10_000_000
_CHOICES_MAX = 128
_JSON = "application/json"


class _Body(msgspec.Struct, gc=False):
    """The fields that we act on; everything else is checked to be JSON and skipped."""

    messages: list[Message]
    model: Any = None
    renamed: Any = msgspec.field(default=None, name="_odel")
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    tools: msgspec.Raw = msgspec.Raw()
    response_format: msgspec.Raw = msgspec.Raw()
    prompt_cache_key: Any = None


class _Function(msgspec.Struct, gc=False):
    name: str = ""


class _Tool(msgspec.Struct, gc=False):
    function: _Function | None = None


class _Format(msgspec.Struct, gc=False):
    type: str = ""


_BODY = msgspec.json.Decoder(_Body)
_TOOLS = msgspec.json.Decoder(list[_Tool])
_FORMAT = msgspec.json.Decoder(_Format)


def parse(body: bytes) -> Request:
    """Read one chat-completions body. Raises BadRequest with a sentence that names the field."""
    document, span = _parse_around_model(body)
    model, messages = document.renamed, document.messages
    if not model or len(model) > _MODEL_CHARS_MAX:
        raise BadRequest("'model' must be a non-empty string of at most 256 characters.", param="model")
    if not messages:
        raise BadRequest("'messages' must be a non-empty array.", param="messages")
    stream, options = bool(document.stream), document.stream_options
    wants_usage = bool(options and options.get("include_usage") is True)
    cache_key = document.prompt_cache_key
    return Request(
        dialect="chat",
        body=body,
        model=model,
        model_span=span,
        messages=messages,
        sizes=[_size(message.content) for message in messages],
        stream=stream,
        wants_usage=wants_usage,
        usage_splice=_usage_splice(body, options) if stream and not wants_usage else None,
        max_output_tokens=_max_output(document),
        choices=_count("n", document.n, _CHOICES_MAX) or 1,
        tool_names=_tool_names(document.tools),
        has_schema=_has_schema(document.response_format),
        session=cache_key if isinstance(cache_key, str) and cache_key else None,
    )


def spliced(request: Request, model: str, *, ask_usage: bool) -> bytes:
    """The caller's body with the deployment's model name in it and, if asked, usage reporting switched on."""
    start, end = request.model_span
    edits = [Splice(start=start, end=end, text=orjson.dumps(model))]
    if ask_usage and request.usage_splice is not None:
        edits.append(request.usage_splice)
        edits.sort(key=lambda edit: edit.start)
    view, at = memoryview(request.body), 0
    parts: list[bytes | memoryview] = []
    for edit in edits:
        parts += (view[at : edit.start], edit.text)
        at = edit.end
    parts.append(view[at:])
    return b"".join(parts)


def refused(refusal: Refusal) -> Answer:
    """A refusal that agents obey: 400 stops every client that was measured at once, 429 only where waiting helps."""
    headers = {"content-type": _JSON, "x-should-retry": "false"}
    status = 400
    if refusal.retry_after_seconds is not None:
        status = 429
        headers = {"content-type": _JSON, "retry-after": str(refusal.retry_after_seconds)}
    return Answer(
        status=status,
        headers=headers,
        body=_error(refusal.message, "penstock_refusal", refusal.code, None, refusal.details),
    )


def failed(error: PenstockError) -> Answer:
    """An error of the tree in OpenAI's shape. Callers' mistakes and what we have already retried are not to be retried."""
    kind = "invalid_request_error" if isinstance(error, CallerError) else "api_error"
    headers = {"content-type": _JSON}
    if not isinstance(error, Overloaded):
        headers["x-should-retry"] = "false"
    return Answer(status=error.status, headers=headers, body=_error(error.message, kind, error.code, error.param, None))


def error_event(error: PenstockError) -> bytes:
    """A failure after the answer began: an event with a top-level `error`, which SDKs raise, and the end."""
    return b"data: " + _error(error.message, "api_error", error.code, None, None) + b"\n\ndata: [DONE]\n\n"


def _error(message: str, kind: str, code: str, param: str | None, details: Mapping[str, Any] | None) -> bytes:
    """The four fields that SDKs read; `details` is added beside them."""
    error: dict[str, Any] = {"message": message, "type": kind, "param": param, "code": code}
    if details:
        error["details"] = details
    return orjson.dumps({"error": error})


def _parse_around_model(body: bytes) -> tuple[_Body, tuple[int, int]]:
    """Parse with the top-level `model` renamed; return the document and the span of the raw value."""
    view = memoryview(body)
    for position in _model_keys(body):
        value = _VALUE.match(body, position + len(_KEY))
        if value is None:
            continue
        document = _decoded(b"".join((view[:position], _RENAMED, view[position + len(_KEY) :])))
        if document.model is None and isinstance(document.renamed, str):
            return document, value.span(1)
    document = _decoded(body)
    if document.model is None:
        raise BadRequest("'model' is missing.", param="model")
    if not isinstance(document.model, str):
        raise BadRequest("'model' must be a string.", param="model")
    raise BadRequest("'model' must be given exactly once, written plainly.", param="model")


def _model_keys(body: bytes) -> Iterator[int]:
    """Positions where the key may stand: near the head, near the tail, then anywhere; at most _CANDIDATES_MAX."""
    first = _KEY_AND_QUOTE.search(body, 0, _HEAD)
    if first is not None:
        yield first.start()
    seen = {first.start()} if first is not None else set()
    tail = max(0, len(body) - _TAIL)
    for start, end in ((0, _HEAD), (tail, len(body)), (0, len(body))):
        for match in _KEY_AND_QUOTE.finditer(body, start, end):
            if match.start() not in seen:
                seen.add(match.start())
                yield match.start()
            if len(seen) >= _CANDIDATES_MAX:
                return


def _decoded(body: bytes) -> _Body:
    """Read the fields; what msgspec says names a path or a byte, never the text around it."""
    try:
        return _BODY.decode(body)
    except msgspec.ValidationError as wrong:
        sentence, _, path = str(wrong).partition(" - at ")
        param = path.strip("`").removeprefix("$").removeprefix(".") or None
        if param is None and "missing required field" in sentence:
            param = "messages"
        raise BadRequest(f"'{param or 'body'}': {sentence[0].lower()}{sentence[1:]}.", param=param) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as broken:
        raise BadRequest(f"The body is not valid JSON: {_where(broken)}.", code="invalid_json") from None


def _where(broken: Exception) -> str:
    if isinstance(broken, msgspec.DecodeError):
        return str(broken).removeprefix("JSON is malformed: ").rstrip(".")
    return "it is nested too deeply" if isinstance(broken, RecursionError) else "it is not UTF-8"


def _usage_splice(body: bytes, options: Mapping[str, Any] | None) -> Splice:
    """The edit that switches usage reporting on; `options` is the parsed stream_options, without include_usage true."""
    if options is None and b'"stream_options"' not in body:
        opening = body.index(b"{") + 1
        return Splice(start=opening, end=opening, text=b'"stream_options":{"include_usage":true},')
    position = _only_key(body, b'"stream_options"')
    if options is None:
        match = re.compile(rb"\s*:\s*(null)").match(body, position)
        text = b'{"include_usage":true}'
    elif "include_usage" in options:
        match = re.compile(rb'"include_usage"\s*:\s*(false|null)').search(body, position)
        text = b"true"
    else:
        match = re.compile(rb"\s*:\s*\{()").match(body, position)
        text = b'"include_usage":true' + (b"," if options else b"")
    if match is None:
        raise BadRequest("'stream_options.include_usage' must be true or false.", param="stream_options.include_usage")
    return Splice(start=match.start(1), end=match.end(1), text=text)


def _only_key(body: bytes, key: bytes) -> int:
    """Where the value of the top level's only `key` begins (just after the key)."""
    name = key.strip(b'"').decode()
    renamed = b'"\x7f' + key[2:]
    for number, match in enumerate(re.finditer(re.escape(key), body)):
        if number >= _CANDIDATES_MAX:
            break
        trial = body[: match.start()] + renamed + body[match.end() :]
        if name not in orjson.loads(trial):
            return match.end()
    raise BadRequest(f"'{name}' must be given exactly once, written plainly.", param=name)


def _size(content: str | list[Any] | None) -> int:
    return len(content) if type(content) is str else PARTS if type(content) is list else 0


def _tool_names(tools: msgspec.Raw) -> frozenset[str]:
    """Names of the offered functions; tools of other kinds are the provider's business."""
    if not memoryview(tools).nbytes:
        return frozenset()
    try:
        return frozenset(tool.function.name for tool in _TOOLS.decode(tools) if tool.function is not None)
    except msgspec.ValidationError:
        return frozenset()


def _has_schema(format_: msgspec.Raw) -> bool:
    if not memoryview(format_).nbytes:
        return False
    try:
        return _FORMAT.decode(format_).type in ("json_schema", "json_object")
    except msgspec.ValidationError:
        return False


def _count(name: str, value: int | None, most: int) -> int | None:
    if value is None or 1 <= value <= most:
        return value
    raise BadRequest(f"'{name}' must be a whole number from 1 to {most}.", param=name)


def _max_output(document: _Body) -> int | None:
    newer = _count("max_completion_tokens", document.max_completion_tokens, _MAX_TOKENS_MAX)
    older = _count("max_tokens", document.max_tokens, _MAX_TOKENS_MAX)
    return newer if older is None else older if newer is None else max(newer, older)
