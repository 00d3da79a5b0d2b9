"""A caller's JSON body: read the fields that a dialect acts on, find where `model` stands, and splice edits in.

The body is parsed once, for reading. What is sent on is the caller's own bytes with a splice or two, so unknown fields,
field order and big numbers reach the provider unchanged.
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

# While the body is parsed its "model" is called "_odel": if `model` is then gone from the top level, the key that we
# renamed was the top level's only one, written in any way JSON allows.
_MODEL_KEY, _MASK_BYTE = b'"model"', ord("_")
_MODEL_KEY_PATTERN = re.compile(rb'"model"\s*:\s*"')
_STRING_VALUE = re.compile(rb'\s*:\s*("[^"\\]*(?:\\.[^"\\]*)*")')
# Where the key is looked for first: SDKs write it at the head, or after the messages, near the tail.
_HEAD_BYTES, _TAIL_BYTES = 512, 8192
# More keys called "model" than this, none of them the request's own, and the body is refused rather than searched.
_CANDIDATES_MAX = 8
# Each try parses the body; long ones get fewer.
_CANDIDATES_MAX_LONG, _LONG_BODY_BYTES = 3, 1_000_000
_MODEL_CHARS_MAX = 256
# Above any model's output limit; larger numbers are mistakes, and would lock a budget.
OUTPUT_TOKENS_MAX = 10_000_000
# What reading a raw part may say: another shape, or text that skipping it did not have to understand.
DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError)


class BodyFields(msgspec.Struct, gc=False, kw_only=True):
    """What every body has: `model`, under its own name and under the one it has while it is looked for; who the end
    user is, if it says so, and the fields in which agents name their session (NAMING)."""

    model: Any = msgspec.UNSET
    masked_model: Any = msgspec.field(default=None, name="_odel")
    user: Any = None
    safety_identifier: Any = None
    metadata: msgspec.Raw = ABSENT
    client_metadata: msgspec.Raw = ABSENT
    prompt_cache_key: msgspec.Raw = ABSENT
    session_id: msgspec.Raw = ABSENT


# Some upstreams match keys whatever their case (Go's encoding/json): "Model" would then name another model there than
# the one that was routed, held and priced here.
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
    """Reads the bodies of one dialect. `required` is the field to name when one is missing."""

    def __init__(self, fields: type[BodyFieldsT], *, required: str) -> None:
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

    def read(self, body: bytearray) -> tuple[BodyFieldsT, tuple[int, int]]:
        """The document and the span of the raw value of its top-level `model`. Raises BadRequest naming the field.

        One letter of the body is changed for the time of the parse: a long history is not copied for it.
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
                if not document.masked_model or len(document.masked_model) > _MODEL_CHARS_MAX:
                    raise BadRequest("'model' must be a non-empty string of at most 256 characters.", param="model")
                return document, value.span(1)
        document = self.decode(body)
        if document.model is msgspec.UNSET:
            raise BadRequest("'model' is missing.", param="model")
        if not isinstance(document.model, str):
            raise BadRequest("'model' must be a string.", param="model")
        raise BadRequest("'model' must be given exactly once, written plainly.", param="model")

    def read_if_model(self, body: bytearray) -> tuple[BodyFieldsT, tuple[int, int]] | None:
        """Like `read`; None where the body names no model, however spelt, or is no object. Raises BadRequest."""
        if not body.lstrip().startswith(b"{"):
            return None
        document = self.decode(body)
        named = document.model is not msgspec.UNSET or _get_other_spellings(document) != _NO_OTHER_SPELLINGS
        return self.read(body) if named else None

    def decode(self, body: bytes | bytearray) -> BodyFieldsT:
        """Read the fields; what msgspec says names a path or a byte, never the text around it."""
        try:
            document: BodyFieldsT = self._decode(body)
        except msgspec.ValidationError as wrong:
            sentence, _, path = str(wrong).partition(" - at ")
            param = path.strip("`").removeprefix("$").removeprefix(".") or None
            if param is None and "missing required field" in sentence:
                param = self._required_field
            raise BadRequest(f"'{param or 'body'}': {sentence[0].lower()}{sentence[1:]}.", param=param) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as broken:
            raise BadRequest(
                f"The body is not valid JSON: {_decode_error_reason(broken)}.", code="invalid_json"
            ) from None
        return document

    def value_offset(self, body: bytearray, key: bytes, text: bytes, attribute: str) -> int:
        """Where `text`, the value of the top level's only `key`, begins. Raises BadRequest if the key is not plain or
        given twice."""
        name, renamed = key.strip(b'"').decode(), b'"_' + key[2:]
        for number, match in enumerate(re.finditer(re.escape(key) + rb"\s*:\s*", body)):
            if number >= _CANDIDATES_MAX_LONG:
                break
            trial = bytearray().join((body[: match.start()], renamed, body[match.start() + len(key) :]))
            if body.startswith(text, match.end()) and getattr(self.decode(trial), attribute) is msgspec.UNSET:
                return match.end()
        raise BadRequest(f"'{name}' must be given exactly once, written plainly.", param=name)


def parse_document(body: bytes | bytearray) -> dict[str, Any]:
    """The whole body as a document, for those who rewrite it. Raises BadRequest."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as broken:
        raise BadRequest("The body is not valid JSON.", code="invalid_json") from broken
    if not isinstance(document, dict):
        raise BadRequest("The body must be a JSON object.", code="invalid_json")
    return document


def splice_model(request: Request, model: str, edits: Iterable[Splice] = ()) -> tuple[bytes | memoryview, ...]:
    """The caller's body with the deployment's model name in it, and further edits.

    In pieces, to be sent one after the other: a long history is not copied to change a few bytes of it.
    """
    start, end = request.model_span
    ordered = [Splice(start=start, end=end, text=orjson.dumps(model)), *edits]
    if len(ordered) > 1:
        ordered.sort(key=lambda edit: edit.start)
    return apply_splices(request.body, ordered)


def apply_splices(body: bytes | bytearray, edits: Sequence[Splice]) -> tuple[bytes | memoryview, ...]:
    """A body with edits (in the order of their places) made in it, in pieces."""
    view, at = memoryview(body), 0
    parts: list[bytes | memoryview] = []
    for edit in edits:
        parts += (view[at : edit.start], edit.text)
        at = edit.end
    parts.append(view[at:])
    return tuple(parts)


def check_count(name: str, value: int | None, most: int) -> int | None:
    """A whole number from 1 to `most`, or None. Raises BadRequest."""
    if value is None or 1 <= value <= most:
        return value
    raise BadRequest(f"'{name}' must be a whole number from 1 to {most}.", param=name)


def end_user(document: BodyFields) -> str:
    """The end user that OpenAI's bodies name, "" if they name none."""
    for name in (document.safety_identifier, document.user):
        if isinstance(name, str) and name:
            return name
    return ""


def session_id_fields(document: BodyFields) -> Mapping[str, msgspec.Raw]:
    """The fields that may name a session, as they stand."""
    raws = _get_session_id_fields(document)
    return (
        _NO_SESSION_ID_FIELDS
        if raws == _SESSION_ID_FIELDS_ABSENT
        else {name: raw for name, raw in zip(SESSION_ID_FIELDS, raws, strict=True) if is_present(raw)}
    )


def first_bytes(raw: msgspec.Raw, size: int) -> bytes:
    """The first bytes of a raw part, b"" where it was not given."""
    return bytes(memoryview(raw)[:size]) if is_present(raw) else b""


def is_present(raw: msgspec.Raw) -> bool:
    """Whether a field that is kept raw was given."""
    return memoryview(raw).nbytes > 0


def _model_key_positions(body: bytearray) -> Iterator[int]:
    """Positions where the key may stand: near the head, near the tail, then anywhere; at most _CANDIDATES_MAX."""
    first = _MODEL_KEY_PATTERN.search(body, 0, _HEAD_BYTES)
    if first is not None:
        yield first.start()
    seen = {first.start()} if first is not None else set()
    tail = max(0, len(body) - _TAIL_BYTES)
    most = _CANDIDATES_MAX if len(body) < _LONG_BODY_BYTES else _CANDIDATES_MAX_LONG
    for start, end in ((0, _HEAD_BYTES), (tail, len(body)), (0, len(body))):
        for match in _MODEL_KEY_PATTERN.finditer(body, start, end):
            if match.start() not in seen:
                seen.add(match.start())
                yield match.start()
            if len(seen) >= most:
                return


def _decode_error_reason(broken: Exception) -> str:
    if isinstance(broken, msgspec.DecodeError):
        return str(broken).removeprefix("JSON is malformed: ").rstrip(".")
    return "it is nested too deeply" if isinstance(broken, RecursionError) else "it is not UTF-8"
