"""Tables of how fields are translated, and the reader that works by them. docs/dialects.md is written from the tables."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...values.base import Value
from ...values.errors import NotTranslatable

# carried: under its own name. mapped: to something else. dropped: named in x-penstock-dropped. refused: by name, before
# a provider is dialed.
HANDLINGS = ("carried", "mapped", "dropped", "refused")
# Limits of x-penstock-dropped: names, and characters of each.
_DROPPED_FIELDS_MAX, _NAME_CHARS_MAX = 32, 96
# Values equivalent to an absent field.
_EMPTY_VALUES: tuple[Any, ...] = (None, False, 0, "", [], {})


class Field(Value, frozen=True, kw_only=True):
    """How one field is translated.

    name: within its object
    handling: one of HANDLINGS
    detail: mapped: to what; dropped, refused: why
    harmless: values of a refused field that count as absent
    """

    name: str
    handling: str
    detail: str = ""
    harmless: Sequence[Any] = _EMPTY_VALUES


class Table(dict[str, Field]):
    """The fields of one object by name; `translated`: names of those that are carried or mapped."""

    def __init__(self, fields: Iterable[Field]) -> None:
        super().__init__((field.name, field) for field in fields)
        self.translated = frozenset(name for name, field in self.items() if field.handling in ("carried", "mapped"))


def carried(*names: str) -> list[Field]:
    """Fields that both dialects have."""
    return [Field(name=name, handling="carried") for name in names]


def mapped(**targets: str) -> list[Field]:
    """Fields with a counterpart, by name."""
    return [Field(name=name, handling="mapped", detail=target) for name, target in targets.items()]


def dropped(why: str, *names: str) -> list[Field]:
    """Fields on which no answer depends."""
    return [Field(name=name, handling="dropped", detail=why) for name in names]


def refused(why: str, *names: str, harmless: Sequence[Any] = _EMPTY_VALUES) -> list[Field]:
    """Fields without which the answer would be another."""
    return [Field(name=name, handling="refused", detail=why, harmless=harmless) for name in names]


def table(*groups: Iterable[Field]) -> Table:
    """The fields of one object by name."""
    return Table(field for group in groups for field in group)


class FieldReader:
    """Takes the fields of a body by its table; unknown ones are an error, dropped ones are noted."""

    def __init__(self, document: Mapping[str, Any], fields: Table) -> None:
        self._remaining = {name: value for name, value in document.items() if value is not None}
        self._fields = fields
        self.dropped_fields: list[str] = []

    def take(self, name: str, default: Any = None) -> Any:
        """Return the value of a mapped field, which then counts as translated."""
        return self._remaining.pop(name, default)

    def carry(self, out: dict[str, Any]) -> None:
        """Copy the fields that both dialects have."""
        for name in [name for name in self._remaining if self._handling_of(name) == "carried"]:
            out[name] = self._remaining.pop(name)

    def note_dropped(self, name: str) -> None:
        """Note a dropped field, once and in characters that fit a header: callers choose the names."""
        printable = "".join(letter for letter in name if letter.isascii() and letter.isprintable())[:_NAME_CHARS_MAX]
        if printable not in self.dropped_fields and len(self.dropped_fields) < _DROPPED_FIELDS_MAX:
            self.dropped_fields.append(printable)

    def check(self, value: Any, fields: Table, path: str, noted_as: str) -> None:
        """Note what of a nested object is not translated. Raises NotTranslatable naming a refused field."""
        if not isinstance(value, dict) or fields.translated.issuperset(value):
            return
        for name in value:
            field = fields.get(name)
            if name in fields.translated or value[name] in _EMPTY_VALUES:
                continue
            if field is not None and field.handling == "refused":
                raise NotTranslatable(f"{path}.{name}", field.detail)
            self.note_dropped(f"{noted_as}.{name}")

    def close(self) -> tuple[str, ...]:
        """Return the dropped fields. Raises NotTranslatable naming a field that is refused or unknown."""
        for name, field in self._fields.items():
            value = self._remaining.pop(name, None)
            if value is None:
                continue
            if field.handling == "refused" and value not in field.harmless:
                raise NotTranslatable(name, field.detail)
            if field.handling == "dropped":
                self.note_dropped(name)
        for name in self._remaining:
            raise NotTranslatable(name, "it has no known counterpart in the dialect of this deployment")
        return tuple(self.dropped_fields)

    def _handling_of(self, name: str) -> str:
        field = self._fields.get(name)
        return field.handling if field is not None else ""


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
