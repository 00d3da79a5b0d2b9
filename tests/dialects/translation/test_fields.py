"""The tables of fields, and the reader that works by them: fields are taken, dropped or refused, and none is forgotten."""

from typing import Any

import pytest

from gateway.dialects.translation import TABLES
from gateway.dialects.translation.fields import (
    HANDLINGS,
    FieldReader,
    carried,
    dropped,
    mapped,
    refused,
    require_objects,
    require_type,
    table,
)
from gateway.values.errors import NotTranslatable
from tests.dialects.translation.translating import translate

FIELDS = table(
    carried("kept"),
    mapped(renamed="`other`"),
    dropped("a label", "label", "hint"),
    refused("reason", "a"),
    refused("alone", "n", harmless=(1,)),
)


def test_dropped_names_fit_a_header_whatever_callers_choose():
    turns = [
        {
            "role": "user",
            "content": "hi",
            "a\r\nset-cookie: x": 1,
            "ä" * 200: 1,
            **{f"n{number}": 1 for number in range(99)},
        }
    ]
    dropped = translate("chat", "messages", messages=turns).dropped_fields
    assert len(dropped) == 32 and "; ".join(dropped).isprintable() and "; ".join(dropped).isascii()


def test_each_field_is_handled_by_its_table():
    fields = FieldReader({"kept": 1, "renamed": 2, "hint": 3, "label": 4, "a": False, "n": 1, "null": None}, FIELDS)
    out: dict[str, Any] = {}
    fields.carry(out)
    assert out == {"kept": 1}
    assert (fields.take("renamed"), fields.take("renamed"), fields.take("absent", 7)) == (2, None, 7)
    assert fields.close() == ("label", "hint"), "in the order of the table"


def test_an_unknown_field_is_refused_by_name():
    with pytest.raises(NotTranslatable) as raised:
        FieldReader({"b": 2}, FIELDS).close()
    assert raised.value.param == "b"


def test_dropped_fields_are_noted_once():
    fields = FieldReader({"label": 1}, FIELDS)
    fields.note_dropped("label")
    assert fields.close() == ("label",)


@pytest.mark.parametrize("value", [False, 0, [], {}, "", None])
def test_harmless_values_are_not_refused(value):
    assert FieldReader({"a": value}, FIELDS).close() == ()


@pytest.mark.parametrize("name, value", [("a", True), ("a", 1), ("a", [0]), ("a", {"b": 0}), ("a", "x"), ("n", 2)])
def test_other_values_are_refused_with_their_reason(name, value):
    with pytest.raises(NotTranslatable, match=f"'{name}' cannot be translated: "):
        FieldReader({name: value}, FIELDS).close()


def test_fields_of_a_nested_object_are_noted_unless_empty_or_translated():
    fields = FieldReader({}, FIELDS)
    nested = {"kept": 1, "renamed": 1, "label": 1, "new": 2, "empty": [], "off": False}
    fields.check(nested, FIELDS, "tools.0", "tools")
    fields.check(["no object"], FIELDS, "tools.1", "tools")
    assert fields.close() == ("tools.label", "tools.new")
    with pytest.raises(NotTranslatable) as raised:
        fields.check({"a": 1}, FIELDS, "tools.2", "tools")
    assert raised.value.param == "tools.2.a"


def test_a_value_of_the_wrong_type_is_refused_by_name():
    assert require_type("x", str, "a") == "x" and require_objects([{}], "a") == [{}]
    with pytest.raises(NotTranslatable, match="'a' cannot be translated: invalid type, expected str"):
        require_type(7, str, "a")
    wrong: list[Any] = [None, {}, [7], [{}, None]]
    for value in wrong:
        with pytest.raises(NotTranslatable, match="expected an array of objects"):
            require_objects(value, "a")


@pytest.mark.parametrize("pair", TABLES, ids=" to ".join)
def test_every_field_of_a_pair_says_how_it_is_handled(pair):
    for fields in TABLES[pair].values():
        for name, field in fields.items():
            assert (field.name, field.handling in HANDLINGS) == (name, True)
            assert bool(field.detail) == (field.handling != "carried"), name
