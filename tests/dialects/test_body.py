"""JSON bodies: located, edited and otherwise forwarded byte for byte."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects import DIALECTS, PARSERS, body
from gateway.dialects.body import BodyFields, BodyReader, without_members
from gateway.dialects.body_errors import ANTHROPIC_ERRORS
from gateway.values.errors import BadRequest
from gateway.values.request import ABSENT, Splice
from tests.dialects.json_values import JSON_VALUES

READER = BodyReader(BodyFields, required="model")
MINIMAL_BODIES: dict[str, dict[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": "hi"}]},
    "responses": {"input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}]},
    "messages": {
        "max_tokens": 9,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi", "x": 10**40}]}],
    },
    "embeddings": {"input": ["a", "b"]},
    "completions": {"prompt": "hi"},
}


# Names that no dialect reads.
FREE = st.text(min_size=1).map(lambda name: f"x-{name}")


@pytest.mark.parametrize("dialect", MINIMAL_BODIES)
@given(unknown=st.dictionaries(FREE, JSON_VALUES, max_size=5), position=st.integers(0, 5))
@settings(deadline=None)
def test_unknown_fields_reach_the_provider_byte_for_byte(dialect, unknown, position):
    fields = list({**MINIMAL_BODIES[dialect], **unknown}.items())
    fields.insert(min(position, len(fields)), ("model", "auto"))
    raw = json.dumps(dict(fields)).encode("utf-8", "surrogatepass")
    try:
        request = PARSERS[dialect](raw)
    except BadRequest as error:
        assert "JSON" in error.message
        return
    start, end = request.model_span
    sent = b"".join(DIALECTS[dialect].upstream_body(request, "upstream", ask_usage=True))
    assert sent == raw[:start] + b'"upstream"' + raw[end:]


def fields_of(**values: Any) -> BodyFields:
    return READER.read(bytearray(json.dumps({"model": "m", **values}).encode()))[0]


@pytest.mark.parametrize(
    "raw, span",
    [
        (b'{"model":"auto"}', (9, 15)),
        (b'{"x": {"model": "other"}, "model" : "auto"}', (36, 42)),
        (b'{"x":"' + b"a" * 20_000 + b'","model":"auto"}', (20_016, 20_022)),
        (b'{"x":"\\"model\\":","model":"auto"}', (26, 32)),
    ],
    ids=["first", "after a nested one", "after a long value", "after one in a string"],
)
def test_the_model_of_the_top_level_is_located_and_the_body_is_unchanged(raw, span):
    read = bytearray(raw)
    document, found = READER.read(read)
    assert (document.masked_model, found, read) == ("auto", span, raw)
    assert raw[slice(*found)] == b'"auto"'


def test_more_nested_models_than_are_tried_are_ambiguous():
    nested = b",".join(b'{"model":"x"}' for _ in range(8))
    assert READER.read(bytearray(b'{"x":[' + nested[:-14] + b'],"model":"auto"}'))[0].masked_model == "auto"
    with pytest.raises(BadRequest, match="exactly once"):
        READER.read(bytearray(b'{"x":[' + nested + b'],"model":"auto","y":[' + nested + b"]}"))


@pytest.mark.parametrize("raw", [b"[1]", b'"text"', b"  "])
def test_a_body_that_is_no_object_is_read_as_none(raw):
    assert READER.read_if_object(bytearray(raw)) is None


@pytest.mark.parametrize("raw", [b'{"a":1}', b"{}"])
def test_an_object_without_a_model_has_no_span(raw):
    found = READER.read_if_object(bytearray(raw))
    assert found is not None and found[1] is None


@pytest.mark.parametrize("raw", [b'{"model":"m"}', b' {"a":1,"model":"m"}'])
def test_a_body_with_a_model_is_read(raw):
    found = READER.read_if_object(bytearray(raw))
    assert found is not None and found[0].masked_model == "m"


@pytest.mark.parametrize("raw", [b'{"Model":"m"}', b'{"model":7}', b'{"model":"a","model":"b"}', b"{"])
def test_a_body_with_an_ambiguous_model_is_rejected_even_where_none_is_required(raw):
    with pytest.raises(BadRequest):
        READER.read_if_object(bytearray(raw))


@pytest.mark.parametrize("raw", [b"", b"{", b'{"a":NaN}', b"\xff"])
def test_a_document_that_is_not_json_is_rejected(raw):
    with pytest.raises(BadRequest) as raised:
        body.parse_document(raw)
    assert (raised.value.code, raised.value.message) == ("invalid_json", "The request body is not valid JSON.")


@pytest.mark.parametrize("raw", [b"[]", b"7", b'"x"', b"null"])
def test_a_document_that_is_no_object_is_rejected(raw):
    with pytest.raises(BadRequest, match="must be a JSON object"):
        body.parse_document(raw)


@given(raw=st.binary(max_size=60), data=st.data())
def test_splices_replace_their_spans_and_nothing_else(raw, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), min_size=4, max_size=4)))
    edits = [Splice(start=cuts[0], end=cuts[1], text=b"one"), Splice(start=cuts[2], end=cuts[3], text=b"")]
    assert b"".join(body.apply_splices(raw, edits)) == raw[: cuts[0]] + b"one" + raw[cuts[1] : cuts[2]] + raw[cuts[3] :]


def test_edits_are_applied_in_the_order_of_their_positions():
    request = PARSERS["chat"](b'{"model":"auto","messages":[{"role":"user"}]}')
    end = len(request.body) - 1
    edits = [Splice(start=end, end=end, text=b',"b":2'), Splice(start=1, end=1, text=b'"a":1,')]
    assert b"".join(body.splice_model(request, "Łódź", edits)) == (
        '{"a":1,"model":"Łódź","messages":[{"role":"user"}],"b":2}'.encode()
    )


@pytest.mark.parametrize("value", [None, 1, 10])
def test_a_count_in_its_range_is_returned(value):
    assert body.check_count("n", value, 10) == value


@pytest.mark.parametrize("value, words", [(0, "below minimum"), (-1, "below minimum"), (11, "above maximum")])
def test_a_count_out_of_its_range_is_rejected(value, words):
    with pytest.raises(BadRequest, match=words) as raised:
        body.check_count("n", value, 10)
    assert raised.value.param == "n"
    with pytest.raises(BadRequest, match="Input should be"):
        body.check_count("n", value, 10, ANTHROPIC_ERRORS)


@pytest.mark.parametrize(
    "fields, user",
    [
        ({"user": "a"}, "a"),
        ({"user": "a", "safety_identifier": "b"}, "b"),
        ({"user": "a", "safety_identifier": ""}, "a"),
        ({"user": 7}, ""),
        ({}, ""),
    ],
    ids=["user", "safety_identifier comes first", "an empty one is skipped", "no text", "none"],
)
def test_the_end_user_is_read_from_either_field(fields, user):
    assert body.end_user(fields_of(**fields)) == user


def test_only_the_session_fields_that_are_present_are_returned_and_unparsed():
    fields = body.session_id_fields(fields_of(metadata={"a": 1}, session_id="s", user="u"))
    assert {name: bytes(raw) for name, raw in fields.items()} == {"metadata": b'{"a": 1}', "session_id": b'"s"'}
    assert body.session_id_fields(fields_of(user="u")) == {}


def test_the_first_bytes_of_an_absent_field_are_none():
    raw = msgspec.Raw(b'["tools"]')
    assert (body.first_bytes(raw, 4), body.first_bytes(raw, 99), body.first_bytes(ABSENT, 4)) == (
        b'["to',
        bytes(raw),
        b"",
    )
    assert body.is_present(raw) and not body.is_present(ABSENT)


def test_the_value_of_a_key_that_also_occurs_nested_is_located_at_the_top_level():
    class Options(BodyFields, kw_only=True):
        options: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET

    reader = BodyReader(Options, required="model")
    raw = bytearray(b'{"model":"m","x":{"options":{"a":1}},"options":{"a":1}}')
    assert reader.value_offset(raw, b'"options"', b'{"a":1}', "options") == raw.rindex(b'{"a":1}')
    twice = bytearray(b'{"model":"m","options":1,"options":1}')
    with pytest.raises(BadRequest, match="'options'"):
        reader.value_offset(twice, b'"options"', b"1", "options")


@pytest.mark.parametrize(
    ("sent", "rest"),
    [
        (b'{"a": 1, "tier": "x", "b": 2.50}', b'{"a": 1, "b": 2.50}'),
        (b'{"tier":"x","a":1}', b'{"a":1}'),
        (b'{ "a" : 1 , "tier" : {"t": [1, "}"]} }', b'{ "a" : 1  }'),
        (b'{"tier":null}', b"{}"),
        (b'{"a":{"tier":"inner"},"tier":"x"}', b'{"a":{"tier":"inner"}}'),
        (b'{"a":"\\"tier\\": \\"x\\"","tier":"x","speed":"y"}', b'{"a":"\\"tier\\": \\"x\\""}'),
        (b'{"speed":1,"tier":"x"}', b"{}"),
        (b'{"a":1}', b'{"a":1}'),
        (b'{"ti\\u0065r":"x","a":1}', b'{"a":1}'),
        (b'{"tier":"x","a":1,"tier":"y"}', b'{"a":1}'),
    ],
    ids=[
        "in the middle",
        "at the head",
        "at the end with spaces",
        "the only one",
        "beside an inner one",
        "beside a text that looks like one",
        "two neighbors",
        "absent",
        "spelled with an escape",
        "given twice",
    ],
)
def test_members_are_removed_and_the_other_bytes_stay(sent: bytes, rest: bytes) -> None:
    assert without_members(sent, ("tier", "speed")) == rest


@given(
    st.dictionaries(
        st.sampled_from(["a", "b", "tier", "speed", "z"]), st.recursive(st.text() | st.integers(), st.lists)
    ),
    st.sampled_from(["", " ", "\n  "]),
)
@settings(deadline=None)
def test_removing_members_keeps_the_others(document: dict[str, Any], space: str) -> None:
    sent = json.dumps(document, separators=(f"{space},{space}", f"{space}:{space}")).encode()
    left = json.loads(without_members(sent, ("tier", "speed")))
    assert left == {name: value for name, value in document.items() if name not in ("tier", "speed")}
