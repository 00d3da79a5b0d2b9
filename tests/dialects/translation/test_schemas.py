"""JSON schemas for providers that are stricter than the caller's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.translation.schemas import closed, input_schema, with_members
from gateway.values.errors import NotTranslatable


@pytest.mark.parametrize(
    "schema, expected",
    [
        ({"type": "object"}, {"type": "object", "properties": {}}),
        ({"type": ["object", "null"]}, {"type": ["object", "null"], "properties": {}}),
        ({"type": "object", "properties": None}, {"type": "object", "properties": {}}),
        ({"type": "array"}, {"type": "array", "items": {}}),
        ({"type": "array", "prefixItems": []}, {"type": "array", "prefixItems": []}),
        ({"type": "string"}, {"type": "string"}),
        ({"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}),
        (True, True),
        (None, None),
    ],
    ids=[
        "an object",
        "or null",
        "no properties",
        "an array",
        "a tuple",
        "a text",
        "a reference",
        "anything",
        "nothing",
    ],
)
def test_members_that_json_schema_leaves_out_are_added(schema, expected):
    assert with_members(schema) == expected


OBJECT = {"type": "object"}
WHOLE = {"type": "object", "properties": {}}


@pytest.mark.parametrize(
    "keyword, wrap",
    [
        *((keyword, lambda part: part) for keyword in ("items", "additionalProperties", "not", "if", "contains")),
        *((keyword, lambda part: [part, {}]) for keyword in ("anyOf", "oneOf", "allOf", "prefixItems", "items")),
        *(
            (keyword, lambda part: {"a": part})
            for keyword in ("properties", "$defs", "definitions", "patternProperties")
        ),
    ],
)
def test_they_are_added_at_any_depth(keyword, wrap):
    assert with_members({keyword: wrap({keyword: wrap(OBJECT)})}) == {keyword: wrap({keyword: wrap(WHOLE)})}


def test_values_that_look_like_schemas_are_left_alone():
    schema = {
        "type": "object",
        "properties": {"type": {"type": "string", "enum": ["object"], "default": OBJECT, "const": OBJECT}},
        "examples": [OBJECT],
    }
    assert with_members(schema) == schema


SCHEMAS = st.recursive(
    st.fixed_dictionaries({"type": st.sampled_from(["object", "array", "string"])}),
    lambda inner: (
        st.fixed_dictionaries({"type": st.just("object"), "properties": st.dictionaries(st.text(), inner)})
        | st.fixed_dictionaries({"anyOf": st.lists(inner)})
    ),
)


@given(SCHEMAS)
def test_a_completed_schema_stays_as_it_is(schema):
    completed = with_members(schema)
    assert with_members(completed) == completed


@pytest.mark.parametrize(
    "schema, expected, dropped",
    [
        (OBJECT, {"type": "object", "additionalProperties": False}, set()),
        (
            {**OBJECT, "additionalProperties": True},
            {"type": "object", "additionalProperties": False},
            {"additionalProperties"},
        ),
        (
            {**OBJECT, "additionalProperties": {}},
            {"type": "object", "additionalProperties": False},
            {"additionalProperties"},
        ),
        ({"type": "integer", "minimum": 1, "maximum": 9}, {"type": "integer"}, {"minimum", "maximum"}),
        ({"type": "array", "minItems": 1, "maxItems": 9}, {"type": "array", "minItems": 1}, {"maxItems"}),
        ({"type": "array", "minItems": 2}, {"type": "array"}, {"minItems"}),
        (
            {"type": "object", "properties": {"minimum": {"type": "string", "maxLength": 3}}},
            {"type": "object", "properties": {"minimum": {"type": "string"}}, "additionalProperties": False},
            {"maxLength"},
        ),
    ],
    ids=["an object", "an open one", "open to anything", "a number", "an array", "a longer array", "nested"],
)
def test_the_schema_of_an_answer_is_closed_and_without_bounds(schema, expected, dropped):
    found: set[str] = set()
    assert (closed(schema, found), found) == (expected, dropped)


def test_an_object_of_any_keys_is_refused():
    with pytest.raises(NotTranslatable, match="any keys"):
        closed({"anyOf": [{**OBJECT, "additionalProperties": {"type": "string"}}]}, set())


def test_a_tool_s_schema_has_no_combinations_at_its_top():
    schema = {"properties": {"a": {"anyOf": [{}]}}, "anyOf": [{"required": ["a"]}]}
    dropped: set[str] = set()
    assert input_schema(schema, "tools", dropped) == {"type": "object", "properties": {"a": {"anyOf": [{}]}}}
    assert dropped == {"anyOf"}


@pytest.mark.parametrize(
    "schema", [{"oneOf": [OBJECT]}, {"properties": {"filter[id]": {}}}, {"properties": {"a" * 65: {}}}]
)
def test_a_tool_s_schema_that_anthropic_refuses_is_refused_by_name(schema):
    with pytest.raises(NotTranslatable, match="Anthropic accepts no"):
        input_schema(schema, "tools", set())
