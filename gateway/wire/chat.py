"""OpenAI chat completions, caller side: body -> Request, the two edits that we make in it, and our error bodies.

The body is parsed once, for reading. What is sent on is the caller's own bytes with at most two splices (`model`, and
`stream_options.include_usage` where a stream has to report usage), so unknown fields, field order and big numbers
reach the provider unchanged.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from ..errors import BadRequest, CallerError, Overloaded, PenstockError
from ..values.answer import Answer
from ..values.plan import Refusal
from ..values.request import PARTS, Request, Splice

# A key of the same length that takes the place of "model" while the body is parsed: if `model` is then gone from the
# top level, the key that we renamed was the top level's only one, written in any way JSON allows.
_KEY, _RENAMED = b'"model"', b'"\x7fodel"'
_RENAMED_NAME = "\x7fodel"
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


def parse(body: bytes) -> Request:
    """Read one chat-completions body. Raises BadRequest with a sentence that names the field."""
    document, span = _parse_around_model(body)
    model = document.pop(_RENAMED_NAME)
    if not model or len(model) > _MODEL_CHARS_MAX:
        raise BadRequest("'model' must be a non-empty string of at most 256 characters.", param="model")
    messages = document.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequest("'messages' must be a non-empty array.", param="messages")
    roles = _roles(messages)
    stream = _flag(document, "stream")
    options = document.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise BadRequest("'stream_options' must be an object.", param="stream_options")
    wants_usage = bool(options and options.get("include_usage") is True)
    return Request(
        dialect="chat",
        body=body,
        document=document,
        model=model,
        model_span=span,
        messages=messages,
        roles=roles,
        sizes=[_size(message.get("content")) for message in messages],
        stream=stream,
        wants_usage=wants_usage,
        usage_splice=_usage_splice(body, options) if stream and not wants_usage else None,
        max_output_tokens=_max_output(document),
        choices=_count(document, "n", _CHOICES_MAX) or 1,
    )


def spliced(request: Request, model: str, *, ask_usage: bool) -> bytes:
    """The caller's body with the deployment's model name in it and, if asked, usage reporting switched on."""
    start, end = request.model_span
    edits = [Splice(start=start, end=end, text=orjson.dumps(model))]
    if ask_usage and request.usage_splice is not None:
        edits.append(request.usage_splice)
        edits.sort(key=lambda edit: edit.start)
    parts, at = [], 0
    for edit in edits:
        parts += (request.body[at : edit.start], edit.text)
        at = edit.end
    parts.append(request.body[at:])
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


def _parse_around_model(body: bytes) -> tuple[dict[str, Any], tuple[int, int]]:
    """Parse with the top-level `model` renamed; return the document and the span of the raw value."""
    for position in _model_keys(body):
        value = _VALUE.match(body, position + len(_KEY))
        if value is None:
            continue
        document = _loads(body[:position] + _RENAMED + body[position + len(_KEY) :])
        if "model" not in document and _RENAMED_NAME in document:
            return document, value.span(1)
    document = _loads(body)
    if "model" not in document:
        raise BadRequest("'model' is missing.", param="model")
    if not isinstance(document["model"], str):
        raise BadRequest("'model' must be a string.", param="model")
    raise BadRequest("'model' must be given exactly once, written plainly.", param="model")


def _model_keys(body: bytes) -> Iterator[int]:
    """Positions where the key may stand: near the head, near the tail, then anywhere; never the same one twice."""
    seen = set()
    head = _KEY_AND_QUOTE.search(body, 0, _HEAD)
    if head is not None:
        seen.add(head.start())
        yield head.start()
    if len(body) > _HEAD:
        for match in _KEY_AND_QUOTE.finditer(body, max(_HEAD, len(body) - _TAIL)):
            if len(seen) < _CANDIDATES_MAX and match.start() not in seen:
                seen.add(match.start())
                yield match.start()
        for match in _KEY_AND_QUOTE.finditer(body):
            if len(seen) >= _CANDIDATES_MAX:
                return
            if match.start() not in seen:
                seen.add(match.start())
                yield match.start()


def _loads(body: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as broken:
        # The message names a position only, never the text around it.
        raise BadRequest(f"The body is not valid JSON: {broken.msg} at byte {broken.pos}.", code="invalid_json") from None
    if not isinstance(document, dict):
        raise BadRequest("The body must be a JSON object.", code="invalid_json")
    return document


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
        if name not in _loads(body[: match.start()] + renamed + body[match.end() :]):
            return match.end()
    raise BadRequest(f"'{name}' must be given exactly once, written plainly.", param=name)


def _roles(messages: list[Any]) -> list[str]:
    """Who spoke, message by message. Raises BadRequest on anything that is not a message."""
    roles = [message.get("role") if type(message) is dict else None for message in messages]
    if not all(type(role) is str for role in roles):
        wrong = next(place for place, role in enumerate(roles) if type(role) is not str)
        raise BadRequest(f"'messages[{wrong}]' must be an object with a string 'role'.", param=f"messages[{wrong}]")
    return roles


def _size(content: Any) -> int:
    return len(content) if type(content) is str else PARTS if type(content) is list else 0


def _flag(document: Mapping[str, Any], name: str) -> bool:
    value = document.get(name)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise BadRequest(f"'{name}' must be true or false.", param=name)


def _count(document: Mapping[str, Any], name: str, most: int) -> int | None:
    value = document.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise BadRequest(f"'{name}' must be a whole number from 1 to {most}.", param=name)
    return value


def _max_output(document: Mapping[str, Any]) -> int | None:
    newer = _count(document, "max_completion_tokens", _MAX_TOKENS_MAX)
    older = _count(document, "max_tokens", _MAX_TOKENS_MAX)
    return newer if older is None else older if newer is None else max(newer, older)
