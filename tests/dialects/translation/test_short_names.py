"""Names and ids that another provider accepts."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.translation.short_names import call_ids, tool_names

VALID = re.compile("[a-zA-Z_][a-zA-Z0-9_-]{0,63}")
NAMES = st.text(alphabet="ab._-é0", max_size=90) | st.sampled_from(["a.b", "a_b", "a b", "x" * 64, "x" * 65, "x" * 66])


def short(*names: str) -> dict[str, str]:
    return tool_names(names, str)


@given(st.lists(NAMES))
def test_names_are_valid_distinct_and_kept_where_they_are_valid(names):
    found = short(*names)
    assert found.keys() == set(names)
    assert len(set(found.values())) == len(found)
    for name, short_name in found.items():
        assert VALID.fullmatch(short_name)
        assert short_name == name or not VALID.fullmatch(name)


@given(st.lists(NAMES, min_size=1), st.lists(NAMES))
def test_a_name_is_shortened_alike_whatever_else_is_offered(names, others):
    alone, among = short(names[0]), short(*names, *others)
    assert among[names[0]] == alone[names[0]]


def test_a_short_name_begins_and_ends_as_the_long_one():
    name = short("mcp__server__" + "x" * 80 + "__list_issues")["mcp__server__" + "x" * 80 + "__list_issues"]
    assert name.startswith("mcp__server__") and name.endswith("__list_issues")


def test_a_tool_that_has_the_short_name_of_another_keeps_it():
    shortened = short("a.b")["a.b"]
    found = short("a.b", shortened)
    assert found[shortened] == shortened != found["a.b"] and VALID.fullmatch(found["a.b"])


@pytest.mark.parametrize("digits", [1, 2, 9])
def test_ids_never_collide_however_short(digits):
    ids = [f"toolu_{number}" for number in range(10)]
    found = call_ids(ids, re.compile(f"[0-9a-f]{{{digits}}}"), lambda digest: digest[:digits])
    assert len(set(found.values())) == 10
