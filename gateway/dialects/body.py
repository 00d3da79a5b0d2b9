"""Reads a caller's JSON body, locates its `model` and splices edits into it.

The body is parsed once, for reading. The provider receives the caller's own bytes with a splice or two, so unknown
fields, field order and big numbers arrive unchanged.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, Generic, TypeVar

import msgspec
import orjson

from ..values.errors import BadRequest
from ..values.request import ABSENT, Request, Splice
from .body_errors import OPENAI_ERRORS, BodyErrorTexts, validation_error, wrong_type_error

# During the parse "model" is renamed to "_odel". If the top level then has no `model`, the renamed key was its only one,
# however JSON may spell it.
_MODEL_KEY, _MASK_BYTE = b'"model"', ord("_")
_MODEL_KEY_PATTERN = re.compile(rb'"model"\s*:\s*"')
_COMMA = re.compile(rb"\s*,\s*")
_STRING_VALUE = re.compile(rb'\s*:\s*("[^"\\]*(?:\\.[^"\\]*)*")')
# Searched first: SDKs write the key at the head, or after the messages, near the tail.
_HEAD_BYTES, _TAIL_BYTES = 512, 8192
# Limit on "model" keys that are tried; a body with more of them is refused.
_CANDIDATES_MAX = 8
# Each try parses the body, so long bodies get fewer.
_CANDIDATES_MAX_LONG, _LONG_BODY_BYTES = 3, 1_000_000
_MODEL_CHARS_MAX = 256
# Above any model's output limit; a larger hold would lock a budget.
OUTPUT_TOKENS_MAX = 10_000_000
# Raised by decoding a raw part: another shape, or invalid UTF-8 that the first parse skipped.
DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError)


class BodyFields(msgspec.Struct, gc=False, kw_only=True):
    """Fields read in every dialect.

    model: the model or route name
    masked_model: the same, under its key's name during the parse
    user: the end user
    safety_identifier: the end user, in OpenAI's newer field
    metadata, client_metadata, prompt_cache_key, session_id: may name a session (SESSION_ID_FIELDS)
    service_tier, speed, inference_geo: change the price of the answer
    """

    model: Any = msgspec.UNSET
    masked_model: Any = msgspec.field(default=None, name="_odel")
    user: Any = None
    safety_identifier: Any = None
    metadata: msgspec.Raw = ABSENT
    client_metadata: msgspec.Raw = ABSENT
    prompt_cache_key: msgspec.Raw = ABSENT
    session_id: msgspec.Raw = ABSENT
    service_tier: Any = None
    speed: Any = None
    inference_geo: Any = None


# Some upstreams match keys in any case (Go's encoding/json): "Model" would select another model there than the one that
# was routed, held and priced.
_OTHER_SPELLINGS = tuple(
    "".join(letters) for letters in itertools.product(*zip("model", "MODEL", strict=True)) if letters != tuple("model")
)
_NO_OTHER_SPELLINGS = (msgspec.UNSET,) * len(_OTHER_SPELLINGS)
_get_other_spellings = attrgetter(*(f"other_{number}" for number in range(len(_OTHER_SPELLINGS))))

# Fields that may name a session.
SESSION_ID_FIELDS = ("metadata", "client_metadata", "prompt_cache_key", "session_id")
_get_session_id_fields = attrgetter(*SESSION_ID_FIELDS)
_SESSION_ID_FIELDS_ABSENT = (ABSENT,) * len(SESSION_ID_FIELDS)
_NO_SESSION_ID_FIELDS: Mapping[str, msgspec.Raw] = {}

BodyFieldsT = TypeVar("BodyFieldsT", bound=BodyFields)


class BodyReader(Generic[BodyFieldsT]):
    """Reads the bodies of one dialect.

    `required` is the parameter to name when a field is missing, `texts` the wording of errors.
    """

    def __init__(self, fields: type[BodyFieldsT], *, required: str, texts: BodyErrorTexts = OPENAI_ERRORS) -> None:
        struct = msgspec.defstruct(
            f"{fields.__name__}Spelt",
            [(f"other_{number}", Any, msgspec.UNSET) for number in range(len(_OTHER_SPELLINGS))],
            bases=(fields,),
            rename={f"other_{number}": name for number, name in enumerate(_OTHER_SPELLINGS)},
            gc=False,
            kw_only=True,
        )
        self._decode: Callable[[bytes | bytearray], Any] = msgspec.json.Decoder(struct).decode
        self._required_field = required
        self._texts = texts

    def read(self, body: bytearray) -> tuple[BodyFieldsT, tuple[int, int]]:
        """Return the fields and the span of the raw value of the top-level `model`. Raises BadRequest.

        One byte of the body is changed during the parse, which avoids a copy of a long history.
        """
        for position in _model_key_positions(body):
            value = _STRING_VALUE.match(body, position + len(_MODEL_KEY))
            if value is None:
                continue
            body[position + 1] = _MASK_BYTE
            try:
                document = self.decode(body)
            finally:
                body[position + 1] = _MODEL_KEY[1]
            if document.model is msgspec.UNSET and isinstance(document.masked_model, str):
                if _get_other_spellings(document) != _NO_OTHER_SPELLINGS:
                    break
                self._check_model(document.masked_model)
                return document, value.span(1)
        document = self.decode(body)
        if document.model is msgspec.UNSET:
            raise BadRequest(self._texts.missing.format(field="model"), param="model")
        if not isinstance(document.model, str):
            raise wrong_type_error("model", "str", document.model, self._texts)
        raise BadRequest(self._texts.ambiguous.format(field="model"), param="model")

    def _check_model(self, model: str) -> None:
        if not model:
            raise BadRequest(self._texts.empty_string.format(field="model"), param="model")
        if len(model) > _MODEL_CHARS_MAX:
            message = self._texts.long_string.format(field="model", maximum=_MODEL_CHARS_MAX, length=len(model))
            raise BadRequest(message, param="model")

    def read_if_object(self, body: bytearray) -> tuple[BodyFieldsT, tuple[int, int] | None] | None:
        """Like `read`, with None for the span where no model is named in any spelling. Raises BadRequest.

        None where the body is no object.
        """
        if not body.lstrip().startswith(b"{"):
            return None
        document = self.decode(body)
        named = document.model is not msgspec.UNSET or _get_other_spellings(document) != _NO_OTHER_SPELLINGS
        return self.read(body) if named else (document, None)

    def decode(self, body: bytes | bytearray) -> BodyFieldsT:
        """Decode the fields. Raises BadRequest, whose message names a path or a byte but no content."""
        try:
            document: BodyFieldsT = self._decode(body)
        except msgspec.ValidationError as error:
            raise validation_error(error, self._required_field, self._texts) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            message = self._texts.invalid_json.format(reason=_decode_error_reason(error))
            raise BadRequest(message, code="invalid_json") from None
        return document

    def value_offset(self, body: bytearray, key: bytes, text: bytes, attribute: str) -> int:
        """Return the offset of `text`, the value of the top-level `key`. Raises BadRequest if the key is ambiguous."""
        name, renamed = key.strip(b'"').decode(), b'"_' + key[2:]
        for number, match in enumerate(re.finditer(re.escape(key) + rb"\s*:\s*", body)):
            if number >= _CANDIDATES_MAX_LONG:
                break
            trial = bytearray().join((body[: match.start()], renamed, body[match.start() + len(key) :]))
            if body.startswith(text, match.end()) and getattr(self.decode(trial), attribute) is msgspec.UNSET:
                return match.end()
        raise BadRequest(self._texts.ambiguous.format(field=name), param=name)


def parse_document(body: bytes | bytearray) -> dict[str, Any]:
    """Parse the whole body, for a rewrite. Raises BadRequest."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest("The request body is not valid JSON.", code="invalid_json") from error
    if not isinstance(document, dict):
        raise BadRequest("The request body must be a JSON object.", code="invalid_json")
    return document


def splice_model(request: Request, model: str, edits: Iterable[Splice] = ()) -> tuple[bytes | memoryview, ...]:
    """Return the caller's body with the deployment's model name and further edits, in pieces.

    Pieces avoid a copy of a long history for a few changed bytes.
    """
    start, end = request.model_span
    ordered = [Splice(start=start, end=end, text=orjson.dumps(model)), *edits]
    if len(ordered) > 1:
        ordered.sort(key=lambda edit: edit.start)
    return apply_splices(request.body, ordered)


def apply_splices(body: bytes | bytearray, edits: Sequence[Splice]) -> tuple[bytes | memoryview, ...]:
    """Return a body with edits (sorted by position) applied, in pieces."""
    view, position = memoryview(body), 0
    parts: list[bytes | memoryview] = []
    for edit in edits:
        parts += (view[position : edit.start], edit.text)
        position = edit.end
    parts.append(view[position:])
    return tuple(parts)


def without_members(body: bytes, names: Iterable[str]) -> bytes:
    """Return a JSON object without these top-level members; its other bytes are unchanged."""
    for name in names:
        member = _member_span(body, name)
        if member is None:
            # Spelled with escapes, or given twice: found by a parser only.
            document = parse_document(body)
            document.pop(name, None)
            body = orjson.dumps(document)
        else:
            body = body[: member[0]] + body[member[1] :]
    return body


def _member_span(body: bytes, name: str) -> tuple[int, int] | None:
    """The span of a member with the comma that it no longer needs; None where its place is ambiguous."""
    probe = msgspec.json.Decoder(msgspec.defstruct("Probe", [(name, msgspec.Raw | msgspec.UnsetType, msgspec.UNSET)]))
    raw = getattr(probe.decode(body), name)
    if raw is msgspec.UNSET:
        return (0, 0)
    text, key = bytes(raw), b'"' + name.encode() + b'"'
    for number, match in enumerate(re.finditer(re.escape(key) + rb"\s*:\s*", body)):
        if number >= _CANDIDATES_MAX_LONG:
            break
        trial = b"".join((body[: match.start()], b'"_' + key[2:], body[match.start() + len(key) :]))
        if body.startswith(text, match.end()) and getattr(probe.decode(trial), name) is msgspec.UNSET:
            end = match.end() + len(text)
            after = _COMMA.match(body, end)
            if after is not None:
                return match.start(), after.end()
            # The last member: the comma before it goes.
            return len(body[: match.start()].rstrip().removesuffix(b",")), end
    return None


def check_count(name: str, value: int | None, maximum: int, texts: BodyErrorTexts = OPENAI_ERRORS) -> int | None:
    """Return `value` if it is None or from 1 to `maximum`. Raises BadRequest."""
    if value is None or 1 <= value <= maximum:
        return value
    template = texts.below_minimum if value < 1 else texts.above_maximum
    raise BadRequest(template.format(field=name, minimum=1, maximum=maximum, value=value), param=name)


def check_output_limit(name: str, value: int | None) -> int | None:
    """Return an OpenAI output limit, None without one. Raises BadRequest.

    -1 means no limit to llama.cpp and LM Studio; 0 echoes the prompt in legacy completions (OpenAI), elsewhere it is the
    provider's to refuse or to read as no limit, so that nothing less than no limit may be held. (APIs of November 2026.)
    """
    return None if value in (0, -1) else check_count(name, value, OUTPUT_TOKENS_MAX)


def end_user(document: BodyFields) -> str:
    """Return the end user in an OpenAI body, "" without one."""
    for name in (document.safety_identifier, document.user):
        if isinstance(name, str) and name:
            return name
    return ""


def session_id_fields(document: BodyFields) -> Mapping[str, msgspec.Raw]:
    """Return the fields that may name a session, unparsed."""
    raws = _get_session_id_fields(document)
    return (
        _NO_SESSION_ID_FIELDS
        if raws == _SESSION_ID_FIELDS_ABSENT
        else {name: raw for name, raw in zip(SESSION_ID_FIELDS, raws, strict=True) if is_present(raw)}
    )


def first_bytes(raw: msgspec.Raw, size: int) -> bytes:
    """Return the first `size` bytes of a raw field, b"" if it is absent."""
    return bytes(memoryview(raw)[:size]) if is_present(raw) else b""


def is_present(raw: msgspec.Raw) -> bool:
    """Whether a raw field is present."""
    return memoryview(raw).nbytes > 0


def _model_key_positions(body: bytearray) -> Iterator[int]:
    """Candidate positions of the key: near the head, near the tail, then anywhere; at most _CANDIDATES_MAX."""
    first = _MODEL_KEY_PATTERN.search(body, 0, _HEAD_BYTES)
    if first is not None:
        yield first.start()
    seen = {first.start()} if first is not None else set()
    tail = max(0, len(body) - _TAIL_BYTES)
    limit = _CANDIDATES_MAX if len(body) < _LONG_BODY_BYTES else _CANDIDATES_MAX_LONG
    for start, end in ((0, _HEAD_BYTES), (tail, len(body)), (0, len(body))):
        for match in _MODEL_KEY_PATTERN.finditer(body, start, end):
            if match.start() not in seen:
                seen.add(match.start())
                yield match.start()
            if len(seen) >= limit:
                return


def _decode_error_reason(error: Exception) -> str:
    if isinstance(error, msgspec.DecodeError):
        return str(error).removeprefix("JSON is malformed: ").rstrip(".")
    return "nested too deeply" if isinstance(error, RecursionError) else "not UTF-8"
