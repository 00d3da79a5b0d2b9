"""JSON that the standard forbids: NaN, lone surrogates, characters split between texts."""

import itertools
import math

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects import lenient_json
from gateway.dialects.lenient_json import TextJoiner


@pytest.mark.parametrize(
    "data, value",
    [
        (b'{"a":"x"}', {"a": "x"}),
        (b'{"a":"x\\ud83d"}', {"a": "x\ud83d"}),
        (b'{"a":"\\ude00 y"}', {"a": "\ude00 y"}),
        (b'{"a":"x \\ud83d y \\udc12 z"}', {"a": "x � y � z"}),
        (b'{"a":"\xf0\x9f"}', {"a": "\udcf0\udc9f"}),
        (b'{"a":"b\xffc"}', {"a": "b�c"}),
        (b'{"a":[123456789012345678901234567890, NaN]}', {"a": [1.2345678901234568e29, math.nan]}),
    ],
    ids=[
        "valid JSON",
        "the first half of a pair",
        "the second half",
        "halves within a text",
        "the first bytes of a character",
        "a byte that is no UTF-8",
        "numbers that JSON lacks",
    ],
)
def test_what_strict_json_forbids_is_read(data, value):
    assert repr(lenient_json.loads(data)) == repr(value)


@pytest.mark.parametrize("data", [b"", b"{", b'{"a":', b"<html>", b"[" * 100_000])
def test_what_is_no_json_at_all_is_a_value_error(data):
    with pytest.raises(ValueError, match=r"."):
        lenient_json.loads(data)


@pytest.mark.parametrize(
    "value, data",
    [
        ({"a": "x"}, b'{"a":"x"}'),
        ({"a": ["\ud83d"], "\udc80": math.nan}, '{"a":["�"],"�":null}'.encode()),
    ],
)
def test_what_is_written_is_valid_json(value, data):
    assert lenient_json.dumps(value) == data


CUT_PIECES = [
    (["x\ud83d", "\ude00y"], "x😀y"),
    (["\ud83d", "\udc80"], "💀"),
    (["x\udcf0", "\udc9f", "\udc98\udc80y"], "x😀y"),
    (["\ud83d", "y"], "�y"),
    (["y", "\ude00"], "y�"),
    (["\udcf0\udc9f"], "�"),
]


@pytest.mark.parametrize("pieces, text", CUT_PIECES)
def test_a_character_that_was_split_is_joined(pieces, text):
    joiner = TextJoiner()
    assert "".join(map(joiner.join, pieces)) + joiner.end() == text


@given(st.text(min_size=1), st.integers(1, 3))
def test_a_text_split_into_utf_16_units_survives(text, size):
    """As JavaScript servers cut: between the two halves of a character."""
    raw = text.encode("utf-16-be")
    units = ["\\u" + raw[at : at + 2].hex() for at in range(0, len(raw), 2)]
    pieces = ["".join(units[at : at + size]) for at in range(0, len(units), size)]
    joiner = TextJoiner()
    read = [lenient_json.loads(f'"{piece}"'.encode()) for piece in pieces]
    assert "".join(map(joiner.join, read)) + joiner.end() == text


@given(
    st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"], exclude_characters='"\\'), min_size=1), st.data()
)
def test_a_text_split_into_bytes_survives(text, data):
    """As servers cut that pass on tokens of a byte-level tokenizer."""
    raw = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(1, len(raw)), max_size=5)) | {0, len(raw)})
    joiner = TextJoiner()
    pieces = [lenient_json.loads(b'"' + raw[a:b] + b'"') for a, b in itertools.pairwise(cuts)]
    assert "".join(map(joiner.join, pieces)) + joiner.end() == text


@given(
    st.recursive(st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(), lambda inner: st.lists(inner))
)
def test_valid_json_is_read_as_the_strict_reader_reads_it(value):
    data = orjson.dumps(value)
    assert lenient_json.loads(data) == orjson.loads(data)
