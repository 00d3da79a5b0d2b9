"""JSON schemas for providers that are stricter than the caller's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.translation.schemas import with_members


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
