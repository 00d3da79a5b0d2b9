"""Passes through and meters all other paths under /v1/: images, audio, files, batches, rerank, moderations.

Only the model, in JSON or in a form, and the number of billed units are read. The rest is forwarded unchanged.
"""

import re
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

from msgspec import structs

from ..providers.streamed_answer import collect_chunk
from ..values.caller_response import CallerResponse
from ..values.errors import BadRequest, PenstockError
from ..values.plan import Refusal
from ..values.request import Message, PassThrough, Request, Splice
from ..values.usage import STANDARD_TERMS, PriceTerms
from . import answer_failure, billed_units, openai_errors, stored_objects
from . import body as bodies
from . import price_terms as terms
from .responses_stream import ResponsesStreamMeter
from .sse import StreamMeter

# Forms: how many parts are searched for the model, and bytes of a part's headers (RFC 7578).
_FORM_PARTS_MAX, _PART_HEADERS_MAX = 64, 4096
_FORM_BOUNDARY = re.compile(r'boundary="?([^";,\s]{1,70})"?', re.IGNORECASE)
_FORM_FIELD_NAME = re.compile(rb'[;\s]name="?([^";\r\n]*)"?', re.IGNORECASE)
_FORM_FIELD_CHARS_MAX = 256
_FORM_FIELDS = frozenset({"model", "stream", *billed_units.FIELDS})
_UNIT_FIELDS = (*billed_units.FIELDS, "input", "documents", "pages")
# Events of streamed images; that with usage ends the answer.
_IMAGE_EVENTS = ("image_generation.", "image_edit.")
_STREAM_IN_QUERY = re.compile(r"(?:^|&)stream=true(?:&|$)", re.IGNORECASE)
# Paths whose answers report usage, or that are billed by unit. Elsewhere the cost is known later or never: unpriced.
_METERED_PATHS = ("/images/", "/audio/", "/rerank", "/ocr", "/responses/")
# Paths whose POST answers have an id by which nothing can be asked again.
_UNSTORED_PATHS = (
    "/images/", "/audio/", "/rerank", "/ocr", "/moderations", "/messages/count_tokens", "/responses/input_tokens",
)  # fmt: skip
# Paths that providers do not charge for.
_FREE_PATHS = ("/files", "/uploads", "/moderations", "/models", "/messages/count_tokens", "/vector_stores")

# Fields of answers and of objects that providers store.
_OBJECT_FIELDS = frozenset({"id", "data", "results", "output", "choices", "text", "status"})


class _PassThroughFields(bodies.BodyFields, gc=False, kw_only=True):
    """The fields the gateway acts on."""

    stream: bool | None = None
    n: Any = None
    size: Any = None
    quality: Any = None
    seconds: Any = None
    input: Any = None
    documents: Any = None
    pages: Any = None
    input_file_id: Any = None
    input_files: Any = None
    file_id: Any = None
    file_ids: Any = None
    training_file: Any = None
    validation_file: Any = None
    previous_response_id: Any = None
    conversation: Any = None
    container: Any = None
    vector_store_ids: Any = None
    batch_id: Any = None
    video_id: Any = None


_READER = bodies.BodyReader(_PassThroughFields, required="model")
_get_id_fields = attrgetter(*stored_objects.BODY_ID_FIELDS)


def parse(method: str, path: str, content_type: str, body: bytes | bytearray, dialect: str) -> Request:
    """Parse a request to `path` (below /v1, with its query). Raises BadRequest if `model` is ambiguous."""
    if isinstance(body, bytes):
        body = bytearray(body)
    (bare_path, _, query), media_type = path.partition("?"), content_type.partition(";")[0].strip().lower()
    is_free = method in ("GET", "HEAD", "DELETE") or bare_path.startswith(_FREE_PATHS) or bare_path.endswith("/cancel")
    model, span, model_in_json, stream = "", (0, 0), True, False
    fields: Mapping[str, Any] = {}
    document: _PassThroughFields | None = None
    path_ids = stored_objects.ids_in_path(bare_path)
    body_ids: tuple[str, ...] = ()
    if media_type == "multipart/form-data":
        form = _form_fields(body, content_type)
        fields = {name: text for name, (text, _) in form.items()}
        model, span = form.get("model", ("", (0, 0)))
        model_in_json, stream = False, fields.get("stream", "").lower() == "true"
    elif body and media_type in ("", "application/json"):
        parsed = _READER.read_if_object(body)
        if parsed is not None:
            document, model_span = parsed
            stream, body_ids = bool(document.stream), stored_objects.ids_in_values(_get_id_fields(document))
            if model_span is not None:
                model, span = document.masked_model, model_span
                fields = {name: getattr(document, name) for name in _UNIT_FIELDS}
    elif method == "GET" and path_ids and query:
        # The stream of a stored response, from its beginning or after an event.
        stream = _STREAM_IN_QUERY.search(query) is not None
    return Request(
        dialect="passthrough",
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
        referenced_ids=path_ids + tuple([id_ for id_ in body_ids if id_ not in path_ids]),
        price_terms=STANDARD_TERMS if is_free else _price_terms(bare_path, document),
        passthrough=PassThrough(
            method=method,
            path=path,
            dialect=dialect,
            is_free=is_free,
            reports_usage=bare_path.startswith(_METERED_PATHS) or bare_path == "/videos",
            creates_object=method == "POST"
            and not bare_path.startswith(_UNSTORED_PATHS)
            and not bare_path.endswith("/cancel"),
            response_id=path_ids[0] if path_ids and bare_path.startswith("/responses/") else "",
            names_object=bool(path_ids),
            model_in_json=model_in_json,
            billed_units_max=billed_units.units_max(bare_path, len(body), fields),
        ),
    )


def _price_terms(path: str, document: _PassThroughFields | None) -> PriceTerms:
    """What the request asks for that changes its price: kinds of tokens by the path, the tier by the body."""
    asked = STANDARD_TERMS if document is None else terms.tier_terms(document)
    if path.startswith("/images/"):
        return structs.replace(asked, has_image_output=True)
    if path.startswith("/audio/"):
        speaks = path.startswith("/audio/speech")
        return structs.replace(asked, has_audio_input=not speaks, has_audio_output=speaks)
    return asked


def _form_fields(body: bytearray, content_type: str) -> dict[str, tuple[str, tuple[int, int]]]:
    """Return those of _FORM_FIELDS that a form has, with the span of each value. Raises BadRequest if there are two."""
    boundary = _FORM_BOUNDARY.search(content_type)
    if boundary is None:
        raise BadRequest("Missing boundary in the Content-Type of a multipart form.", param="content-type")
    # Every boundary begins a line; the first may begin the body.
    delimiter, found = b"\r\n--" + boundary.group(1).encode(), dict[str, tuple[str, tuple[int, int]]]()
    start = -2 if body.startswith(delimiter[2:]) else body.find(delimiter)
    if start == -1:
        return found
    for _ in range(_FORM_PARTS_MAX):
        end = body.find(delimiter, start + len(delimiter))
        if end < 0:
            return found
        headers_end = body.find(b"\r\n\r\n", max(start, 0), min(end, start + _PART_HEADERS_MAX))
        if headers_end >= 0:
            match = _FORM_FIELD_NAME.search(body[max(start, 0) : headers_end])
            param = "" if match is None else match.group(1).lower().decode(errors="replace")
            if param in _FORM_FIELDS:
                if param in found:
                    raise BadRequest(f"Invalid '{param}': the form field must appear exactly once.", param=param)
                text = body[headers_end + 4 : min(end, headers_end + 4 + _FORM_FIELD_CHARS_MAX)]
                found[param] = text.decode(errors="replace"), (headers_end + 4, end)
        start = end
    raise BadRequest(f"Too many form parts: expected at most {_FORM_PARTS_MAX}.")


def upstream_body(request: Request, model: str, *, ask_usage: bool) -> tuple[bytes | memoryview, ...]:
    """Return the caller's body with the deployment's model name, if the body has a model."""
    assert request.passthrough is not None
    if not request.model:
        return (memoryview(request.body),)
    if request.passthrough.model_in_json:
        return bodies.splice_model(request, model)
    return bodies.apply_splices(
        request.body, [Splice(start=request.model_span[0], end=request.model_span[1], text=model.encode())]
    )


def stream_meter(request: Request) -> StreamMeter:
    """Create the meter of a streamed answer."""
    if request.passthrough is not None and request.passthrough.response_id:
        return StoredResponseStreamMeter()
    return PassThroughStreamMeter()


class StoredResponseStreamMeter(ResponsesStreamMeter):
    """Meters the stream of a stored response.

    It may begin after the last event, and that the response has failed is what its reader asked for.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()
        self.finish_reason_seen = self.answer_begun = True

    def _forwards(self, event: bytes) -> bool:
        forwards = super()._forwards(event)
        self.error = None
        return forwards


class PassThroughStreamMeter(StreamMeter):
    """Meters a stream of any kind of events; reads usage where an event has it."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()
        # The end mark of such a stream is unknown.
        self.finish_reason_seen = True

    def _must_read(self, data: bytes) -> bool:
        return b'"usage"' in data or b'"error"' in data or b"[DONE]" in data

    def _read(self, payload: dict[str, Any], event_bytes: int) -> bool:
        self._envelope_samples += 1
        self.answer_begun = self.answer_begun or answer_failure.reported_error(payload) is None
        response = payload.get("response")
        for place in (payload, response if isinstance(response, dict) else {}):
            collect_chunk(self.answer, place)
        if str(payload.get("type")).startswith(_IMAGE_EVENTS) and isinstance(payload.get("usage"), dict):
            self.answer["data"] = [{"b64_json": ""}]
        return True


def failed_answer(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the error body behind an answer that holds nothing but an error, None for any other.

    Objects that can be read (batches, videos, responses) have errors of their own, which the caller asked for.
    """
    error = answer_failure.reported_error(document)
    return {"error": error} if error is not None and not _OBJECT_FIELDS & document.keys() else None


def answer_events_of(document: Mapping[str, Any]) -> bytes | None:
    """Return an unstreamed answer as the events of a stream, None where that is not possible."""
    return None


def answer_text_bytes(document: Mapping[str, Any]) -> int:
    """Return 0: usage of passed-through answers is not estimated."""
    return 0


def refusal_response(refusal: Refusal) -> CallerResponse:
    """Build the response to a refusal, in OpenAI's shape."""
    return openai_errors.refusal_response(refusal)


def error_response(error: PenstockError) -> CallerResponse:
    """Build the response to an error, in OpenAI's shape."""
    return openai_errors.error_response(error)


def error_event(error: PenstockError) -> bytes:
    """Build the event for a failure mid-stream."""
    return b"data: " + openai_errors.error_body(error) + b"\n\n"
