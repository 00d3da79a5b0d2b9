"""Types shared by the translations: the translated request, the protocols and the field reader."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ...values.base import Value
from ...values.errors import NotTranslatable
from .answer_account import AnswerLoss


class TranslatedRequest(Value, frozen=True, kw_only=True):
    """A request in another dialect, and what translating its answer needs.

    document: the translated body, without `model`
    caller_document: the caller's own body
    dropped_fields: names of what was dropped because no answer depends on it (hints, labels, cache marks); reported to
        the caller in x-penstock-dropped
    caller_tools: (kind, name, namespace) of the caller's tools by their upstream name, where those differ
    """

    document: dict[str, Any]
    caller_document: dict[str, Any]
    dropped_fields: tuple[str, ...] = ()
    caller_tools: Mapping[str, tuple[str, str, str]] = {}


class AnswerTranslator(Protocol):
    """Translates one answer: whole, or event by event.

    `end` closes what is open. `stored_answer` returns the answer's id and items where the caller may refer to it later
    and only the gateway can store it, else ("", []). `losses` returns what did not reach the caller, once the answer has
    ended; `drop` adds what could not even be read.
    """

    def translate_document(self, document: dict[str, Any]) -> dict[str, Any]: ...
    def feed(self, payload: dict[str, Any]) -> list[dict[str, Any]]: ...
    def end(self) -> list[dict[str, Any]]: ...
    def stored_answer(self) -> tuple[str, list[dict[str, Any]]]: ...
    def drop(self, kind: str, name: str) -> None: ...
    def losses(self) -> tuple[AnswerLoss, ...]: ...


class Translation(Protocol):
    """One pair of dialects; implemented by modules.

    `extended` targets accept litellm's additions to chat completions (cache_control on parts, thinking_blocks on
    messages).
    """

    def translate_request(self, document: dict[str, Any], *, extended: bool) -> TranslatedRequest: ...
    def answer_translator(self, translated: TranslatedRequest, *, answer_id: str, created: int) -> AnswerTranslator: ...


# Limits of x-penstock-dropped: names, and characters of each.
_DROPPED_FIELDS_MAX, _NAME_CHARS_MAX = 32, 96
# Values equivalent to an absent field.
_EMPTY_VALUES: tuple[Any, ...] = (None, False, "", [], {})


class FieldReader:
    """Takes the fields of a body one by one; untaken ones are an error, harmless ones are noted as dropped."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._remaining = {name: value for name, value in document.items() if value is not None}
        self.dropped_fields: list[str] = []

    def take(self, name: str, default: Any = None) -> Any:
        """Return the value of a field, which then counts as translated."""
        return self._remaining.pop(name, default)

    def drop(self, *names: str) -> None:
        """Drop these fields and note those that are present."""
        for name in names:
            if name in self._remaining:
                del self._remaining[name]
                self.note_dropped(name)

    def note_dropped(self, name: str) -> None:
        """Note a dropped field, once and in characters that fit a header: callers choose the names."""
        printable = "".join(letter for letter in name if letter.isascii() and letter.isprintable())[:_NAME_CHARS_MAX]
        if printable not in self.dropped_fields and len(self.dropped_fields) < _DROPPED_FIELDS_MAX:
            self.dropped_fields.append(printable)

    def note_unknown(self, value: Any, translated: frozenset[str], path: str) -> None:
        """Note the fields of a nested object that are not in `translated`."""
        for name in value if isinstance(value, dict) else ():
            if name not in translated and value[name] not in _EMPTY_VALUES:
                self.note_dropped(f"{path}.{name}")

    def refuse(self, reason: str, *names: str, harmless: Sequence[Any] = (False, 0, [], {}, "")) -> None:
        """Refuse these fields unless their value is harmless. Raises NotTranslatable."""
        for name in names:
            value = self._remaining.pop(name, None)
            if value is not None and value not in harmless:
                raise NotTranslatable(name, reason)

    def close(self) -> tuple[str, ...]:
        """Return the dropped fields. Raises NotTranslatable if a field was not taken."""
        for name in self._remaining:
            raise NotTranslatable(name, "it has no known counterpart in the dialect of this deployment")
        return tuple(self.dropped_fields)


def require_type(value: Any, kind: type, param: str) -> Any:
    """Return `value` if it has that type. Raises NotTranslatable naming the field."""
    if not isinstance(value, kind):
        raise NotTranslatable(param, f"invalid type, expected {kind.__name__}")
    return value


def require_objects(value: Any, param: str) -> list[dict[str, Any]]:
    """Return `value` if it is an array of objects. Raises NotTranslatable naming the field."""
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise NotTranslatable(param, "invalid type, expected an array of objects")
    return value
