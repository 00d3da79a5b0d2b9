"""The field reader: fields are taken, dropped or refused, and none is forgotten."""

from typing import Any

import pytest

from gateway.dialects.translation.translated import FieldReader, require_objects, require_type
from gateway.values.errors import NotTranslatable
from tests.dialects.translation.translating import translate


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


def test_a_field_that_was_not_taken_is_refused_by_name():
    fields = FieldReader({"a": 1, "b": 2})
    assert fields.take("a") == 1 and fields.take("a") is None and fields.take("c", 7) == 7
    with pytest.raises(NotTranslatable) as raised:
        fields.close()
    assert raised.value.param == "b"


def test_null_is_an_absent_field():
    fields = FieldReader({"a": None})
    fields.refuse("reason", "a")
    fields.drop("a")
    assert fields.close() == ()


def test_dropped_fields_are_noted_once_and_in_order():
    fields = FieldReader({"b": 1, "a": 2})
    fields.drop("a", "absent", "b")
    fields.note_dropped("a")
    assert fields.close() == ("a", "b")


@pytest.mark.parametrize("value", [False, 0, [], {}, ""])
def test_harmless_values_are_not_refused(value):
    fields = FieldReader({"a": value})
    fields.refuse("reason", "a")
    assert fields.close() == ()


@pytest.mark.parametrize("value", [True, 1, [0], {"b": 0}, "x"])
def test_other_values_are_refused_with_their_reason(value):
    with pytest.raises(NotTranslatable, match="'a' cannot be translated: reason"):
        FieldReader({"a": value}).refuse("reason", "a")


def test_unknown_fields_of_a_nested_object_are_noted_unless_empty():
    fields = FieldReader({})
    fields.note_unknown({"known": 1, "new": 2, "empty": [], "off": False}, frozenset({"known"}), "tools")
    fields.note_unknown(["no object"], frozenset(), "tools")
    assert fields.close() == ("tools.new",)


def test_a_value_of_the_wrong_type_is_refused_by_name():
    assert require_type("x", str, "a") == "x" and require_objects([{}], "a") == [{}]
    with pytest.raises(NotTranslatable, match="'a' cannot be translated: invalid type, expected str"):
        require_type(7, str, "a")
    wrong: list[Any] = [None, {}, [7], [{}, None]]
    for value in wrong:
        with pytest.raises(NotTranslatable, match="expected an array of objects"):
            require_objects(value, "a")
