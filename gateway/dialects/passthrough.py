"""Everything else under /v1/: images, audio, files, batches, rerank, moderations. It passes through and is metered.

Only what the gateway acts on is read: the model, in JSON or in a form, and how many pieces are asked for where pieces
are what is paid for. The rest goes on as it came.
"""

import re
from collections.abc import Mapping
from typing import Any

from ..values.caller_response import Answer
from ..values.errors import BadRequest, PenstockError
from ..values.plan import Refusal
from ..values.request import Message, Passage, Request, Splice
from . import body as bodies
from . import openai_errors
from .body import count
from .sse import Meter

# Forms: how many parts are looked through for the model, and how long the headers of one may be (RFC 7578).
_PARTS_MAX, _PART_HEADERS_MAX = 64, 4096
_BOUNDARY = re.compile(r'boundary="?([^";,\s]{1,70})"?', re.IGNORECASE)
_FIELD_NAME = re.compile(rb'[;\s]name="?([^";\r\n]*)"?', re.IGNORECASE)
_FIELD_CHARS_MAX = 256
# Paths that go on after the id of a thing that lies with a provider.
_THING = re.compile(r"^/(?:responses|files|batches|conversations|uploads|vector_stores|containers|videos)/([^/?]+)")
_PIECES_MAX = 128
# Sound is at least so many bytes a second: 8 kbit/s, the lowest rate that speech is stored at (AMR, Opus).
_BYTES_A_SECOND = 1000
# Where an answer says what it took, or pieces are paid for. Elsewhere the cost shows up later, or nowhere: unpriced.
_METERED = ("/images/", "/audio/", "/rerank", "/responses/")
# What no provider of the field charges for: looking things up, keeping files, asking whether text is harmful.
_FREE = ("/files", "/uploads", "/moderations", "/models", "/messages/count_tokens", "/vector_stores")


class _Fields(bodies.Fields, gc=False, kw_only=True):
    """The fields that we act on."""

    stream: bool | None = None
    n: int | None = None
    input: Any = None


_READER = bodies.Reader(_Fields, required="model")


def parse(method: str, path: str, content_type: str, body: bytes | bytearray, dialect: str) -> Request:
    """Read one request to `path` (below /v1, with its query). Raises BadRequest where `model` cannot be told."""
    if isinstance(body, bytes):
        body = bytearray(body)
    plain, kind = path.partition("?")[0], content_type.partition(";")[0].strip().lower()
    free = method in ("GET", "HEAD", "DELETE") or plain.startswith(_FREE) or plain.endswith("/cancel")
    model, span, quoted, stream, pieces = "", (0, 0), True, False, _pieces(path, body, None)
    if kind == "multipart/form-data":
        model, span = _form_field(body, content_type, b"model")
        quoted, stream = False, _form_field(body, content_type, b"stream")[0].lower() == "true"
    elif body and kind in ("", "application/json"):
        found = _READER.if_named(body)
        if found is not None:
            document, span = found
            model, stream = document.renamed, bool(document.stream)
            pieces = _pieces(path, body, document)
    return Request(
        dialect="passage",
        body=body,
        model=model,
        model_span=span,
        messages=[Message("user", "")],
        sizes=[0],
        stream=stream,
        wants_usage=True,
        usage_splice=None,
        max_output_tokens=None,
        choices=1,
        tool_names=frozenset(),
        has_schema=False,
        references=tuple(_THING.findall(path)),
        passage=Passage(
            method=method,
            path=path,
            dialect=dialect,
            free=free,
            metered=plain.startswith(_METERED),
            creates=method == "POST" and not _THING.match(plain),
            quoted=quoted,
            pieces=pieces,
        ),
    )


def _form_field(body: bytearray, content_type: str, name: bytes) -> tuple[str, tuple[int, int]]:
    """A form's field and where its value stands; ("", (0, 0)) where there is none. Raises BadRequest if there are two."""
    boundary = _BOUNDARY.search(content_type)
    if boundary is None:
        raise BadRequest("A form needs its boundary in the Content-Type.", param="content-type")
    # Every boundary begins a line; the first may begin the body.
    mark, value, span = b"\r\n--" + boundary.group(1).encode(), "", (0, 0)
    start = -2 if body.startswith(mark[2:]) else body.find(mark)
    if start == -1:
        return value, span
    for _ in range(_PARTS_MAX):
        end = body.find(mark, start + len(mark))
        if end < 0:
            return value, span
        headers_end = body.find(b"\r\n\r\n", max(start, 0), min(end, start + _PART_HEADERS_MAX))
        if headers_end >= 0:
            named = _FIELD_NAME.search(body[max(start, 0) : headers_end])
            text = body[headers_end + 4 : min(end, headers_end + 4 + _FIELD_CHARS_MAX)]
            if named is not None and named.group(1).lower() == name:
                if span != (0, 0):
                    raise BadRequest(f"'{name.decode()}' must be given exactly once.", param=name.decode())
                value, span = text.decode(errors="replace"), (headers_end + 4, end)
        start = end
    raise BadRequest(f"A form may have at most {_PARTS_MAX} parts here.")


def _pieces(path: str, body: bytearray, document: _Fields | None) -> tuple[str, int] | None:
    """(unit, how many at most) of what is paid for by the piece."""
    if path.startswith("/images/"):
        return "image", count("n", document.n if document is not None else None, _PIECES_MAX) or 1
    if path.startswith("/audio/speech"):
        text = document.input if document is not None else None
        return "character", len(text) if isinstance(text, str) else len(body)
    if path.startswith("/audio/"):
        return "second", -(-len(body) // _BYTES_A_SECOND)
    return ("query", 1) if path.startswith("/rerank") else None


def pieces_of(document: Mapping[str, Any]) -> int | None:
    """How many pieces a whole answer holds: seconds of sound or images; None where it does not say."""
    usage = document.get("usage")
    told = [usage.get("seconds") if isinstance(usage, Mapping) else None, document.get("duration")]
    seconds = next((one for one in told if isinstance(one, int | float) and not isinstance(one, bool)), None)
    if seconds is not None:
        return max(0, -int(-seconds // 1))
    data = document.get("data")
    return len(data) if isinstance(data, list) and data and _is_image(data[0]) else None


def _is_image(entry: Any) -> bool:
    return isinstance(entry, dict) and ("b64_json" in entry or "url" in entry)


def spliced(request: Request, model: str, *, ask_usage: bool) -> tuple[bytes | memoryview, ...]:
    """The caller's body with the deployment's model name in it, if it names one."""
    assert request.passage is not None
    if not request.model:
        return (memoryview(request.body),)
    if request.passage.quoted:
        return bodies.spliced(request, model)
    return bodies.replaced(
        request.body, [Splice(start=request.model_span[0], end=request.model_span[1], text=model.encode())]
    )


def meter(request: Request) -> "PassageStream":
    """What reads the answer as it streams by."""
    return PassageStream()


class PassageStream(Meter):
    """Meters a stream of events of whatever kind: usage is read where an event names it."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()
        # Nobody knows how such a stream says that it is complete.
        self.finished = True

    def _matters(self, data: bytes) -> bool:
        return b'"usage"' in data or b'"error"' in data or b"[DONE]" in data

    def _read(self, payload: dict[str, Any], event_bytes: int) -> bool:
        self._learnt += 1
        if isinstance(payload.get("usage"), dict):
            self.usage = payload["usage"]
        if payload.get("error"):
            self.error = payload["error"]
        return True


def weight(document: Mapping[str, Any]) -> int:
    """Bytes of text in a whole answer: nobody estimates what passes through."""
    return 0


def refused(refusal: Refusal) -> Answer:
    """A refusal in OpenAI's shape."""
    return openai_errors.refused(refusal)


def failed(error: PenstockError) -> Answer:
    """An error of the tree in OpenAI's shape."""
    return openai_errors.failed(error)


def error_event(error: PenstockError) -> bytes:
    """A failure after the answer began."""
    return b"data: " + openai_errors.body_of(error) + b"\n\n"
