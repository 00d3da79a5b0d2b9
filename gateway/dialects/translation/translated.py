"""What a crossing makes of a request, and how the answer comes back."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ...values.base import Value
from ...values.errors import NotTranslatable


class TranslatedRequest(Value, frozen=True, kw_only=True):
    """A request in another dialect: its document without `model`, and what the way back has to know.

    `asked` is the caller's own document. `dropped` names what was left out because no answer depends on it: hints,
    labels, cache marks; the caller is told. `tools` maps names used upstream to (kind, name, namespace) as the caller
    knows them, where those differ.
    """

    document: dict[str, Any]
    caller_document: dict[str, Any]
    dropped_fields: tuple[str, ...] = ()
    caller_tools: Mapping[str, tuple[str, str, str]] = {}


class AnswerTranslator(Protocol):
    """The way back of one answer: whole, or event by event; `end` closes what is open. `kept` gives the answer's id and
    items where the caller may refer to it later and nobody but us keeps it, else ("", [])."""

    def translate_document(self, document: dict[str, Any]) -> dict[str, Any]: ...
    def feed(self, payload: dict[str, Any]) -> list[dict[str, Any]]: ...
    def end(self) -> list[dict[str, Any]]: ...
    def stored_answer(self) -> tuple[str, list[dict[str, Any]]]: ...


class Translation(Protocol):
    """One pair of dialects; each is a module. `extended` targets understand litellm's additions to chat completions
    (cache_control on parts, thinking_blocks on messages)."""

    def translate_request(self, document: dict[str, Any], *, extended: bool) -> TranslatedRequest: ...
    def answer_translator(self, translated: TranslatedRequest, *, answer_id: str, created: int) -> AnswerTranslator: ...


# What a caller is told at most, and of each name.
_DROPPED_FIELDS_MAX, _NAME_CHARS_MAX = 32, 96
# Values that say nothing.
_EMPTY_VALUES: tuple[Any, ...] = (None, False, "", [], {})


class FieldReader:
    """Takes the fields of a body one by one; what nobody took is an error, what is harmless is remembered as dropped."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._remaining = {name: value for name, value in document.items() if value is not None}
        self.dropped_fields: list[str] = []

    def take(self, name: str, default: Any = None) -> Any:
        """The value of a field, which then counts as carried."""
        return self._remaining.pop(name, default)

    def drop(self, *names: str) -> None:
        """Leave these out; the caller is told of those that were given."""
        for name in names:
            if name in self._remaining:
                del self._remaining[name]
                self.note_dropped(name)

    def note_dropped(self, what: str) -> None:
        """Something was left out that no answer depends on; the caller is told once, in a header: names are theirs."""
        plain = "".join(letter for letter in what if letter.isascii() and letter.isprintable())[:_NAME_CHARS_MAX]
        if plain not in self.dropped_fields and len(self.dropped_fields) < _DROPPED_FIELDS_MAX:
            self.dropped_fields.append(plain)

    def note_unknown(self, value: Any, known: frozenset[str], where: str) -> None:
        """Note what an object within the request says beyond what is carried."""
        for name in value if isinstance(value, dict) else ():
            if name not in known and value[name] not in _EMPTY_VALUES:
                self.note_dropped(f"{where}.{name}")

    def refuse(self, why: str, *names: str, harmless: Sequence[Any] = (False, 0, [], {}, "")) -> None:
        """Refuse these unless their value says nothing. Raises NotCarriable."""
        for name in names:
            value = self._remaining.pop(name, None)
            if value is not None and value not in harmless:
                raise NotTranslatable(name, why)

    def close(self) -> tuple[str, ...]:
        """What was dropped. Raises NotCarriable if a field is left that we do not know."""
        for name in self._remaining:
            raise NotTranslatable(name, "it has no known counterpart in the dialect of this deployment")
        return tuple(self.dropped_fields)


def require_type(value: Any, kind: type, param: str) -> Any:
    """`value` if it is of that type. Raises NotCarriable naming the field."""
    if not isinstance(value, kind):
        raise NotTranslatable(param, f"it must be of type {kind.__name__}")
    return value


def require_objects(value: Any, param: str) -> list[dict[str, Any]]:
    """`value` if it is a list of objects. Raises NotCarriable naming the field."""
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise NotTranslatable(param, "it must be a list of objects")
    return value
