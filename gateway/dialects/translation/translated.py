"""What a crossing makes of a request, and how the answer comes back."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ...values.base import Value
from ...values.errors import NotCarriable


class Carried(Value, frozen=True, kw_only=True):
    """A request in another dialect: its document without `model`, and what the way back has to know.

    `asked` is the caller's own document. `dropped` names what was left out because no answer depends on it: hints,
    labels, cache marks; the caller is told. `tools` maps names used upstream to (kind, name, namespace) as the caller
    knows them, where those differ.
    """

    document: dict[str, Any]
    asked: dict[str, Any]
    dropped: tuple[str, ...] = ()
    tools: Mapping[str, tuple[str, str, str]] = {}


class Back(Protocol):
    """The way back of one answer: whole, or event by event; `end` closes what is open. `kept` gives the answer's id and
    items where the caller may refer to it later and nobody but us keeps it, else ("", [])."""

    def whole(self, document: dict[str, Any]) -> dict[str, Any]: ...
    def feed(self, payload: dict[str, Any]) -> list[dict[str, Any]]: ...
    def end(self) -> list[dict[str, Any]]: ...
    def kept(self) -> tuple[str, list[dict[str, Any]]]: ...


class Crossing(Protocol):
    """One pair of dialects; each is a module. `extended` targets understand litellm's additions to chat completions
    (cache_control on parts, thinking_blocks on messages)."""

    def carry(self, document: dict[str, Any], *, extended: bool) -> Carried: ...
    def back(self, carried: Carried, *, answer_id: str, created: int) -> Back: ...


# What a caller is told at most, and of each name.
_NOTES_MAX, _NAME_CHARS_MAX = 32, 96
# Values that say nothing.
_EMPTY: tuple[Any, ...] = (None, False, "", [], {})


class Fields:
    """Takes the fields of a body one by one; what nobody took is an error, what is harmless is remembered as dropped."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._left = {name: value for name, value in document.items() if value is not None}
        self.dropped: list[str] = []

    def take(self, name: str, default: Any = None) -> Any:
        """The value of a field, which then counts as carried."""
        return self._left.pop(name, default)

    def drop(self, *names: str) -> None:
        """Leave these out; the caller is told of those that were given."""
        for name in names:
            if name in self._left:
                del self._left[name]
                self.note(name)

    def note(self, what: str) -> None:
        """Something was left out that no answer depends on; the caller is told once, in a header: names are theirs."""
        plain = "".join(letter for letter in what if letter.isascii() and letter.isprintable())[:_NAME_CHARS_MAX]
        if plain not in self.dropped and len(self.dropped) < _NOTES_MAX:
            self.dropped.append(plain)

    def rest(self, value: Any, known: frozenset[str], where: str) -> None:
        """Note what an object within the request says beyond what is carried."""
        for name in value if isinstance(value, dict) else ():
            if name not in known and value[name] not in _EMPTY:
                self.note(f"{where}.{name}")

    def refuse(self, why: str, *names: str, harmless: Sequence[Any] = (False, 0, [], {}, "")) -> None:
        """Refuse these unless their value says nothing. Raises NotCarriable."""
        for name in names:
            value = self._left.pop(name, None)
            if value is not None and value not in harmless:
                raise NotCarriable(name, why)

    def done(self) -> tuple[str, ...]:
        """What was dropped. Raises NotCarriable if a field is left that we do not know."""
        for name in self._left:
            raise NotCarriable(name, "it has no known counterpart in the dialect of this deployment")
        return tuple(self.dropped)


def of_type(value: Any, kind: type, param: str) -> Any:
    """`value` if it is of that type. Raises NotCarriable naming the field."""
    if not isinstance(value, kind):
        raise NotCarriable(param, f"it must be of type {kind.__name__}")
    return value


def objects(value: Any, param: str) -> list[dict[str, Any]]:
    """`value` if it is a list of objects. Raises NotCarriable naming the field."""
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise NotCarriable(param, "it must be a list of objects")
    return value
