"""Everything else under /v1/: images, audio, files, batches, rerank, moderations. It passes through and is metered.

Only what the gateway acts on is read: the model, in JSON or in a form, and how many pieces are asked for where pieces
are what is paid for. The rest goes on as it came.
"""

import re
from collections.abc import Mapping
from typing import Any

from ..values.caller_response import CallerResponse
from ..values.errors import BadRequest, PenstockError
from ..values.plan import Refusal
from ..values.request import Message, PassThrough, Request, Splice
from . import body as bodies
from . import openai_errors
from .body import check_count
from .sse import StreamMeter

# Forms: how many parts are looked through for the model, and how long the headers of one may be (RFC 7578).
_FORM_PARTS_MAX, _PART_HEADERS_MAX = 64, 4096
_FORM_BOUNDARY = re.compile(r'boundary="?([^";,\s]{1,70})"?', re.IGNORECASE)
_FORM_FIELD_NAME = re.compile(rb'[;\s]name="?([^";\r\n]*)"?', re.IGNORECASE)
_FORM_FIELD_CHARS_MAX = 256
# Paths that go on after the id of a thing that lies with a provider.
_RESOURCE_PATH = re.compile(
    r"^/(?:responses|files|batches|conversations|uploads|vector_stores|containers|videos)/([^/?]+)"
)
_IMAGES_MAX = 128
# Sound is at least so many bytes a second: 8 kbit/s, the lowest rate that speech is stored at (AMR, Opus).
_AUDIO_BYTES_PER_SECOND_MIN = 1000
# Where an answer says what it took, or pieces are paid for. Elsewhere the cost shows up later, or nowhere: unpriced.
_METERED_PATHS = ("/images/", "/audio/", "/rerank", "/responses/")
# What no provider of the field charges for: looking things up, keeping files, asking whether text is harmful.
_FREE_PATHS = ("/files", "/uploads", "/moderations", "/models", "/messages/count_tokens", "/vector_stores")


class _PassThroughFields(bodies.BodyFields, gc=False, kw_only=True):
    """The fields that we act on."""

    stream: bool | None = None
    n: int | None = None
    input: Any = None


_READER = bodies.BodyReader(_PassThroughFields, required="model")


def parse(method: str, path: str, content_type: str, body: bytes | bytearray, dialect: str) -> Request:
    """Read one request to `path` (below /v1, with its query). Raises BadRequest where `model` cannot be told."""
    if isinstance(body, bytes):
        body = bytearray(body)
    plain, kind = path.partition("?")[0], content_type.partition(";")[0].strip().lower()
    free = method in ("GET", "HEAD", "DELETE") or plain.startswith(_FREE_PATHS) or plain.endswith("/cancel")
    model, span, quoted, stream, pieces = "", (0, 0), True, False, _billed_units_max(path, body, None)
    if kind == "multipart/form-data":
        model, span = _form_field(body, content_type, b"model")
        quoted, stream = False, _form_field(body, content_type, b"stream")[0].lower() == "true"
    elif body and kind in ("", "application/json"):
        found = _READER.read_if_model(body)
        if found is not None:
            document, span = found
            model, stream = document.masked_model, bool(document.stream)
            pieces = _billed_units_max(path, body, document)
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
        choice_count=1,
        tool_names=frozenset(),
        has_schema=False,
        referenced_ids=tuple(_RESOURCE_PATH.findall(path)),
        passthrough=PassThrough(
            method=method,
            path=path,
            dialect=dialect,
            is_free=free,
            reports_usage=plain.startswith(_METERED_PATHS),
            creates_object=method == "POST" and not _RESOURCE_PATH.match(plain),
            model_in_json=quoted,
            pieces_max=pieces,
        ),
    )


def _form_field(body: bytearray, content_type: str, name: bytes) -> tuple[str, tuple[int, int]]:
    """A form's field and where its value stands; ("", (0, 0)) where there is none. Raises BadRequest if there are two."""
    boundary = _FORM_BOUNDARY.search(content_type)
    if boundary is None:
        raise BadRequest("A form needs its boundary in the Content-Type.", param="content-type")
    # Every boundary begins a line; the first may begin the body.
    mark, value, span = b"\r\n--" + boundary.group(1).encode(), "", (0, 0)
    start = -2 if body.startswith(mark[2:]) else body.find(mark)
    if start == -1:
        return value, span
    for _ in range(_FORM_PARTS_MAX):
        end = body.find(mark, start + len(mark))
        if end < 0:
            return value, span
        headers_end = body.find(b"\r\n\r\n", max(start, 0), min(end, start + _PART_HEADERS_MAX))
        if headers_end >= 0:
            named = _FORM_FIELD_NAME.search(body[max(start, 0) : headers_end])
            text = body[headers_end + 4 : min(end, headers_end + 4 + _FORM_FIELD_CHARS_MAX)]
            if named is not None and named.group(1).lower() == name:
                if span != (0, 0):
                    raise BadRequest(f"'{name.decode()}' must be given exactly once.", param=name.decode())
                value, span = text.decode(errors="replace"), (headers_end + 4, end)
        start = end
    raise BadRequest(f"A form may have at most {_FORM_PARTS_MAX} parts here.")


def _billed_units_max(path: str, body: bytearray, document: _PassThroughFields | None) -> tuple[str, int] | None:
    """(unit, how many at most) of what is paid for by the piece."""
    if path.startswith("/images/"):
        return "image", check_count("n", document.n if document is not None else None, _IMAGES_MAX) or 1
    if path.startswith("/audio/speech"):
        text = document.input if document is not None else None
        return "character", len(text) if isinstance(text, str) else len(body)
    if path.startswith("/audio/"):
        return "second", -(-len(body) // _AUDIO_BYTES_PER_SECOND_MIN)
    return ("query", 1) if path.startswith("/rerank") else None


def billed_units_of(document: Mapping[str, Any]) -> int | None:
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


def upstream_body(request: Request, model: str, *, ask_usage: bool) -> tuple[bytes | memoryview, ...]:
    """The caller's body with the deployment's model name in it, if it names one."""
    assert request.passthrough is not None
    if not request.model:
        return (memoryview(request.body),)
    if request.passthrough.model_in_json:
        return bodies.splice_model(request, model)
    return bodies.apply_splices(
        request.body, [Splice(start=request.model_span[0], end=request.model_span[1], text=model.encode())]
    )


def stream_meter(request: Request) -> "PassThroughStreamMeter":
    """What reads the answer as it streams by."""
    return PassThroughStreamMeter()


class PassThroughStreamMeter(StreamMeter):
    """Meters a stream of events of whatever kind: usage is read where an event names it."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()
        # Nobody knows how such a stream says that it is complete.
        self.finish_reason_seen = True

    def _must_read(self, data: bytes) -> bool:
        return b'"usage"' in data or b'"error"' in data or b"[DONE]" in data

    def _read(self, payload: dict[str, Any], event_bytes: int) -> bool:
        self._envelope_samples += 1
        if isinstance(payload.get("usage"), dict):
            self.usage = payload["usage"]
        if payload.get("error"):
            self.error = payload["error"]
        return True


def answer_text_bytes(document: Mapping[str, Any]) -> int:
    """Bytes of text in a whole answer: nobody estimates what passes through."""
    return 0


def refusal_answer(refusal: Refusal) -> CallerResponse:
    """A refusal in OpenAI's shape."""
    return openai_errors.refusal_answer(refusal)


def error_answer(error: PenstockError) -> CallerResponse:
    """An error of the tree in OpenAI's shape."""
    return openai_errors.error_answer(error)


def error_event(error: PenstockError) -> bytes:
    """A failure after the answer began."""
    return b"data: " + openai_errors.error_body(error) + b"\n\n"
