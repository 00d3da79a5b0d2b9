"""OpenAI chat completions, caller side: body -> Request, the two edits that we make in it, and our error bodies.

The body is parsed once, for reading. What is sent on is the caller's own bytes with at most two splices (`model`, and
`stream_options.include_usage` where a stream has to report usage), so unknown fields, field order and big numbers
reach the provider unchanged.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from operator import attrgetter
from typing import Any

import msgspec
import orjson

from ..errors import BadRequest, CallerError, Overloaded, PenstockError
from ..values.answer import Answer
from ..values.plan import Refusal
from ..values.request import PARTS, Message, Request, Splice

# While the body is parsed its "model" is called "_odel": if `model` is then gone from the top level, the key that we
# renamed was the top level's only one, written in any way JSON allows.
_KEY, _OTHER_LETTER = b'"model"', ord("_")
_KEY_AND_QUOTE = re.compile(rb'"model"\s*:\s*"')
_VALUE = re.compile(rb'\s*:\s*("[^"\\]*(?:\\.[^"\\]*)*")')
# Where the key is looked for first: SDKs write it at the head, or after the messages, near the tail.
_HEAD, _TAIL = 512, 8192
# More keys called "model" than this, none of them the request's own, and the body is refused rather than searched.
_CANDIDATES_MAX = 8
# Each try parses the body; long ones get fewer.
_CANDIDATES_MAX_LONG, _LONG_BODY = 3, 1_000_000
_MODEL_CHARS_MAX = 256
# Above any model's output limit; larger numbers are mistakes, and would lock a budget.
_MAX_TOKENS_MAX = 10_000_000
_CHOICES_MAX = 128
_JSON = "application/json"


class _Fields(msgspec.Struct, gc=False):
    """The fields that we act on; everything else is checked to be JSON and skipped."""

    messages: list[Message]
    model: Any = msgspec.UNSET
    renamed: Any = msgspec.field(default=None, name="_odel")
    stream: bool | None = None
    stream_options: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    tools: msgspec.Raw = msgspec.Raw()
    response_format: msgspec.Raw = msgspec.Raw()


# Some upstreams match keys whatever their case (Go's encoding/json): "Model" would then name another model there than
# the one that was routed, held and priced here.
_OTHER_SPELLINGS = tuple(
    "".join(letters) for letters in itertools.product(*zip("model", "MODEL", strict=True)) if letters != tuple("model")
)
_Body = msgspec.defstruct(
    "_Body",
    [(f"other_{number}", Any, msgspec.UNSET) for number in range(len(_OTHER_SPELLINGS))],
    bases=(_Fields,),
    rename={f"other_{number}": name for number, name in enumerate(_OTHER_SPELLINGS)},
    gc=False,
)
_NO_OTHERS = (msgspec.UNSET,) * len(_OTHER_SPELLINGS)
_others = attrgetter(*(f"other_{number}" for number in range(len(_OTHER_SPELLINGS))))


class _Function(msgspec.Struct, gc=False):
    name: str = ""


class _Tool(msgspec.Struct, gc=False):
    function: _Function | None = None


class _Format(msgspec.Struct, gc=False):
    type: str = ""


_BODY: msgspec.json.Decoder[_Fields] = msgspec.json.Decoder(_Body)
_TOOLS = msgspec.json.Decoder(list[_Tool])
_FORMAT = msgspec.json.Decoder(_Format)
_OPTIONS = msgspec.json.Decoder(dict[str, Any] | None)
# What reading a raw part may say: another shape, or text that skipping it did not have to understand.
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError)
_USAGE_OFF = re.compile(rb'"include_usage"\s*:\s*(false|null)')


def parse(body: bytes | bytearray) -> Request:
    """Read one chat-completions body. Raises BadRequest with a sentence that names the field.

    A bytearray is taken over: nobody else may change it from now on.
    """
    if isinstance(body, bytes):
        body = bytearray(body)
    document, span = _parse_around_model(body)
    model, messages = document.renamed, document.messages
    if not model or len(model) > _MODEL_CHARS_MAX:
        raise BadRequest("'model' must be a non-empty string of at most 256 characters.", param="model")
    if not messages:
        raise BadRequest("'messages' must be a non-empty array.", param="messages")
    stream = bool(document.stream)
    options = _stream_options(document.stream_options)
    wants_usage = bool(options and options.get("include_usage"))
    return Request(
        dialect="chat",
        body=body,
        model=model,
        model_span=span,
        messages=messages,
        sizes=[
            len(content) if type(content := message.content) is str else PARTS if content is not None else 0
            for message in messages
        ],
        stream=stream,
        wants_usage=wants_usage,
        usage_splice=_usage_splice(body, document.stream_options, options) if stream and not wants_usage else None,
        max_output_tokens=_max_output(document),
        choices=_count("n", document.n, _CHOICES_MAX) or 1,
        tool_names=_tool_names(document.tools),
        has_schema=_has_schema(document.response_format),
    )


def spliced(request: Request, model: str, *, ask_usage: bool) -> tuple[bytes | memoryview, ...]:
    """The caller's body with the deployment's model name in it and, if asked, usage reporting switched on.

    In pieces, to be sent one after the other: a long history is not copied to change a few bytes of it.
    """
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
    return tuple(parts)


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


def _parse_around_model(body: bytearray) -> tuple[_Fields, tuple[int, int]]:
    """Parse with the top-level `model` renamed; return the document and the span of the raw value.

    One letter of the body is changed for the time of the parse: a long history is not copied for it.
    """
    for position in _model_keys(body):
        value = _VALUE.match(body, position + len(_KEY))
        if value is None:
            continue
        body[position + 1] = _OTHER_LETTER
        try:
            document = _decoded(body)
        finally:
            body[position + 1] = _KEY[1]
        if document.model is msgspec.UNSET and isinstance(document.renamed, str):
            if _others(document) != _NO_OTHERS:
                break
            return document, value.span(1)
    document = _decoded(body)
    if document.model is msgspec.UNSET:
        raise BadRequest("'model' is missing.", param="model")
    if not isinstance(document.model, str):
        raise BadRequest("'model' must be a string.", param="model")
    raise BadRequest("'model' must be given exactly once, written plainly.", param="model")


def _model_keys(body: bytearray) -> Iterator[int]:
    """Positions where the key may stand: near the head, near the tail, then anywhere; at most _CANDIDATES_MAX."""
    first = _KEY_AND_QUOTE.search(body, 0, _HEAD)
    if first is not None:
        yield first.start()
    seen = {first.start()} if first is not None else set()
    tail = max(0, len(body) - _TAIL)
    most = _CANDIDATES_MAX if len(body) < _LONG_BODY else _CANDIDATES_MAX_LONG
    for start, end in ((0, _HEAD), (tail, len(body)), (0, len(body))):
        for match in _KEY_AND_QUOTE.finditer(body, start, end):
            if match.start() not in seen:
                seen.add(match.start())
                yield match.start()
            if len(seen) >= most:
                return


def _decoded(body: bytearray) -> _Fields:
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


def _stream_options(raw: msgspec.Raw | msgspec.UnsetType) -> dict[str, Any] | None:
    """The parsed stream_options, None where they are absent or null."""
    if isinstance(raw, msgspec.UnsetType):
        return None
    try:
        options: dict[str, Any] | None = _OPTIONS.decode(raw)
    except _UNREADABLE:
        raise BadRequest("'stream_options' must be an object.", param="stream_options") from None
    if options and not isinstance(options.get("include_usage"), bool | None):
        raise BadRequest("'stream_options.include_usage' must be true or false.", param="stream_options.include_usage")
    return options


def _usage_splice(body: bytearray, raw: msgspec.Raw | msgspec.UnsetType, options: dict[str, Any] | None) -> Splice:
    """The edit that switches usage reporting on and touches nothing else."""
    if isinstance(raw, msgspec.UnsetType):
        opening = body.index(b"{") + 1
        return Splice(start=opening, end=opening, text=b'"stream_options":{"include_usage":true},')
    text = bytes(raw)
    start = _value_of(body, b'"stream_options"', text)
    if options is None:
        return Splice(start=start, end=start + len(text), text=b'{"include_usage":true}')
    if "include_usage" not in options:
        addition = b'"include_usage":true' + (b"," if options else b"")
        return Splice(start=start + 1, end=start + 1, text=addition)
    wanted = {**options, "include_usage": True}
    for match in _USAGE_OFF.finditer(text):
        if _OPTIONS.decode(text[: match.start(1)] + b"true" + text[match.end(1) :]) == wanted:
            return Splice(start=start + match.start(1), end=start + match.end(1), text=b"true")
    raise BadRequest(
        "'stream_options.include_usage' must be written plainly, once.", param="stream_options.include_usage"
    )


def _value_of(body: bytearray, key: bytes, text: bytes) -> int:
    """Where `text`, the value of the top level's only `key`, begins. Raises BadRequest if the key is not plain or twice."""
    name, renamed = key.strip(b'"').decode(), b'"_' + key[2:]
    for number, match in enumerate(re.finditer(re.escape(key) + rb"\s*:\s*", body)):
        if number >= _CANDIDATES_MAX_LONG:
            break
        trial = bytearray().join((body[: match.start()], renamed, body[match.start() + len(key) :]))
        if body.startswith(text, match.end()) and isinstance(_decoded(trial).stream_options, msgspec.UnsetType):
            return match.end()
    raise BadRequest(f"'{name}' must be given exactly once, written plainly.", param=name)


def _tool_names(tools: msgspec.Raw) -> frozenset[str]:
    """Names of the offered functions; tools of other kinds are the provider's business."""
    if not memoryview(tools).nbytes:
        return frozenset()
    try:
        return frozenset(tool.function.name for tool in _TOOLS.decode(tools) if tool.function is not None)
    except _UNREADABLE:
        return frozenset()


def _has_schema(format_: msgspec.Raw) -> bool:
    if not memoryview(format_).nbytes:
        return False
    try:
        return _FORMAT.decode(format_).type in ("json_schema", "json_object")
    except _UNREADABLE:
        return False


def _count(name: str, value: int | None, most: int) -> int | None:
    if value is None or 1 <= value <= most:
        return value
    raise BadRequest(f"'{name}' must be a whole number from 1 to {most}.", param=name)


def _max_output(document: _Fields) -> int | None:
    newer = _count("max_completion_tokens", document.max_completion_tokens, _MAX_TOKENS_MAX)
    older = _count("max_tokens", document.max_tokens, _MAX_TOKENS_MAX)
    return newer if older is None else older if newer is None else max(newer, older)
