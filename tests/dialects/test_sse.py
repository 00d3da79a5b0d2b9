"""Streams of every dialect: chunking and line ends change nothing; an early end looks like the output limit."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects import DIALECTS, PARSERS, sse
from gateway.dialects.chat_stream import text_bytes
from tests.dialects import stream_checks
from tests.dialects.streams import (
    COMPLETE_CASES,
    CUTS,
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    RAW,
    REASONS,
    RECORDED,
    STREAM_REQUESTS,
    STREAMS,
    boundaries,
    check_stream,
    end_stream,
    endable_meter,
    pieces,
    provider_reasons,
    run,
    state,
)

CASES = [(dialect, name) for dialect, names in STREAMS.items() for name in names]
ENDABLE_CASES = [
    *COMPLETE_CASES,
    ("chat", "several choices"),
    ("chat", "a chunk without choices first"),
    ("chat", "usage beside the reason"),
    ("completions", "several prompts"),
    ("messages", "interleaved tools"),
    ("responses", "many items"),
]


@pytest.mark.parametrize("dialect, name", CASES)
@given(cuts=CUTS)
@settings(max_examples=60, deadline=None)
def test_any_chunking_gives_the_same_bytes_and_the_same_usage(dialect, name, cuts):
    raw = (RECORDED / f"{name}.sse").read_bytes()
    whole_output, whole_meter = run(dialect, raw, [])
    chunked_output, chunked_meter = run(dialect, raw, cuts)
    assert whole_output == chunked_output == raw
    assert state(whole_meter) == state(chunked_meter)
    assert whole_meter.usage if "error" not in name else whole_meter.error


@pytest.mark.parametrize("dialect, name", CASES)
def test_crlf_line_ends_change_neither_state_nor_bytes(dialect, name):
    raw = (RECORDED / f"{name}.sse").read_bytes()
    crlf = raw.replace(b"\n", b"\r\n")
    out, meter = run(dialect, crlf, [7, 99, 1000])
    assert out == crlf
    assert state(meter) == state(run(dialect, raw, [])[1])


@pytest.mark.parametrize("dialect, name", [case for case in CASES if "error" not in case[1]])
def test_data_after_the_end_mark_is_dropped(dialect, name):
    raw = (RECORDED / f"{name}.sse").read_bytes()
    out, meter = run(dialect, raw + b'data: {"usage":{"prompt_tokens":9,"completion_tokens":9}}\n\n', [len(raw)])
    assert out == raw and meter.done


@pytest.mark.parametrize("dialect, name", ENDABLE_CASES)
def test_a_stream_cut_at_any_event_is_an_answer_that_reached_its_output_limit(dialect, name):
    raw = RAW[name]
    for at in boundaries(raw):
        out = end_stream(dialect, raw, at, [at // 3, at // 2])
        assert out.startswith(raw[:at])
        reasons = check_stream(dialect, out)
        if provider_reasons(dialect, raw[:at]):
            assert reasons <= provider_reasons(dialect, raw[:at]) | {REASONS[dialect]}
        else:
            assert reasons == {REASONS[dialect]}


@pytest.mark.parametrize("dialect, name", ENDABLE_CASES)
@given(at=st.integers(1, 20_000), cuts=CUTS)
@settings(max_examples=40, deadline=None)
def test_chunking_and_an_incomplete_event_do_not_change_the_ending(dialect, name, at, cuts):
    raw = RAW[name]
    ends = boundaries(raw)
    at = max(at % len(raw), ends[0])
    assert end_stream(dialect, raw, at, cuts) == end_stream(dialect, raw, max(end for end in ends if end <= at), [])


@pytest.mark.parametrize("dialect, name", ENDABLE_CASES)
def test_input_after_the_ending_is_dropped(dialect, name):
    raw, meter = RAW[name], endable_meter(dialect)
    half = boundaries(raw)[1] + 5
    meter.feed(raw[:half])
    meter.end_early(INPUT_TOKENS, OUTPUT_TOKENS)
    assert meter.done and meter.is_complete
    assert (
        meter.feed(raw[half:]) + meter.feed(b"x" * 9) + meter.finish() + meter.end_early(INPUT_TOKENS, OUTPUT_TOKENS)
        == b""
    )


@pytest.mark.parametrize("dialect, name", COMPLETE_CASES)
@given(cuts=CUTS)
@settings(max_examples=20, deadline=None)
def test_may_end_early_changes_nothing_for_the_caller(dialect, name, cuts):
    raw, endable = RAW[name], endable_meter(dialect)
    plain = DIALECTS[dialect].stream_meter(PARSERS[dialect](STREAM_REQUESTS[dialect]))
    assert b"".join(map(endable.feed, pieces(raw, cuts))) == b"".join(map(plain.feed, pieces(raw, cuts))) == raw
    assert (endable.usage, endable.done, endable.is_complete, endable.id) == (
        plain.usage,
        plain.done,
        plain.is_complete,
        plain.id,
    )


def written_bytes(payload: dict[str, Any]) -> int:
    """UTF-8 bytes of the model's text in one event of any dialect."""
    delta = payload.get("delta")
    if isinstance(delta, str):
        return len(delta.encode())
    if isinstance(delta, dict):
        return sum(len(delta.get(name, "").encode()) for name in ("text", "thinking", "partial_json"))
    return sum(
        text_bytes(choice.get("delta", {})) + len(choice.get("text", "").encode())
        for choice in payload.get("choices", ())
    )


@pytest.mark.parametrize("dialect, name", COMPLETE_CASES)
def test_text_is_counted_to_the_byte_where_a_stream_may_end_early(dialect, name):
    meter = endable_meter(dialect)
    meter.feed(RAW[name])
    weights = list(map(written_bytes, stream_checks.payloads(RAW[name])))
    assert meter.text_totals() == (sum(weights), sum(map(bool, weights)))


def test_a_long_stream_is_closed_with_all_of_its_text():
    opening = RAW["responses_text"][: RAW["responses_text"].index(b"event: response.output_text.delta")]
    delta = {
        "type": "response.output_text.delta",
        "item_id": "m",
        "output_index": 0,
        "content_index": 0,
        "delta": "word ",
    }
    meter = endable_meter("responses")
    meter.feed(opening)
    for _ in range(5_000):
        meter.feed(sse.encode_event(delta, named=True))
    closing = meter.end_early(INPUT_TOKENS, OUTPUT_TOKENS)
    (response,) = [event["response"] for event in stream_checks.payloads(closing) if "response" in event]
    assert response["output"][0]["content"][0]["text"] == "word " * 5_000
    assert meter.text_totals() == (25_000, 5_000)


@pytest.mark.parametrize("dialect, name", COMPLETE_CASES)
@given(at=st.integers(1, 20_000))
@settings(max_examples=20, deadline=None)
def test_the_text_is_estimated_without_parsing_and_counted_when_asked(dialect, name, at):
    raw, meter = RAW[name], endable_meter(dialect)
    meter.feed(raw[: at % len(raw)])
    meter.estimated_text_totals()
    counted = meter.text_totals()
    assert meter.estimated_text_totals() == counted, "what was counted stays counted"


@pytest.mark.parametrize("dialect", STREAMS)
@pytest.mark.parametrize(
    "before", [b"", b": keep-alive\n\n", b"data: {"], ids=["no data", "a comment", "an incomplete event"]
)
def test_a_stream_that_has_not_begun_gets_no_ending(dialect, before):
    meter = endable_meter(dialect)
    meter.feed(before)
    assert meter.end_early(INPUT_TOKENS, OUTPUT_TOKENS) == b""
    assert meter.done


@pytest.mark.parametrize("dialect", STREAMS)
@given(noise=st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner) | st.dictionaries(
    st.sampled_from(["type", "choices", "index", "output_index", "item", "part", "delta", "response", "message", "usage", "content_index"]), inner), max_leaves=12))  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_events_of_an_invalid_shape_never_raise(dialect, noise):
    kinds = ("response.output_item.added", "response.content_part.added", "response.output_text.delta", "content_block_start", "content_block_stop")  # fmt: skip
    meter = endable_meter(dialect)
    first = next(iter(sse.events_of(RAW[STREAMS[dialect][0]])))
    meter.feed(first)
    for kind in kinds:
        event = {**noise, "type": kind} if isinstance(noise, dict) else {"type": kind, "output_index": 0, "item": noise}
        meter.feed(b"data: " + json.dumps(event).encode() + b"\n\n")
    meter.end_early(INPUT_TOKENS, OUTPUT_TOKENS)


@pytest.mark.parametrize(
    "block, events",
    [
        (b"", []),
        (b"data: 1\n\ndata: 2\n\n", [b"data: 1\n\n", b"data: 2\n\n"]),
        (b"data: 1\r\n\r\ndata: 2\n\n", [b"data: 1\r\n\r\n", b"data: 2\n\n"]),
        (b"data: 1\n\ndata: 2\n", [b"data: 1\n\n"]),
    ],
    ids=["nothing", "two events", "mixed line ends", "an incomplete event is not yielded"],
)
def test_a_block_is_split_at_blank_lines(block, events):
    assert list(sse.events_of(block)) == events


@pytest.mark.parametrize(
    "event, data",
    [
        (b"data: {}\n\n", b"{}"),
        (b"data:{}\r\n\r\n", b"{}"),
        (b'event: x\nid: 7\ndata: {"a":\ndata: 1}\n\n', b'{"a":1}'),
        (b": keep-alive\n\n", b""),
    ],
    ids=["one line", "no space, CRLF", "several lines are joined", "a comment"],
)
def test_the_data_of_an_event_is_that_of_its_data_lines(event, data):
    assert sse.data_of(event) == data


@pytest.mark.parametrize(
    "event", [b"data: [DONE]\n\n", b": x\n\n", b"data: [1]\n\n", b'data: {"a"\n\n', b"data: 7\n\n", b""]
)
def test_an_event_without_a_json_object_has_no_payload(event):
    assert sse.payload_of(event) is None


@given(payload=st.dictionaries(st.text(), st.text() | st.integers(-9, 9)), named=st.booleans())
def test_an_encoded_event_is_read_back(payload, named):
    payload = {**payload, "type": "x"}
    raw = sse.encode_event(payload, named=named)
    assert list(sse.events_of(raw)) == [raw] and sse.payload_of(raw) == payload
    assert raw.startswith(b"event: x\n") is named


@pytest.mark.parametrize("text, size", [("", 0), ("ab", 2), ("Łódź", 7), ("\ud800", 1), (None, 0), (7, 0), (["ab"], 0)])
def test_only_text_has_utf8_bytes(text, size):
    assert sse.utf8_bytes(text) == size


@pytest.mark.parametrize("split", [False, True], ids=["in the same read", "in a later read"])
def test_an_end_mark_after_the_last_event_passes_once(split):
    end = b'data: {"type":"response.completed","response":{"id":"r","status":"completed","output":[]}}\n\n'
    mark = b"data: [DONE]\n\n"
    meter = DIALECTS["responses"].stream_meter(PARSERS["responses"](STREAM_REQUESTS["responses"]))
    out = meter.feed(end) + meter.feed(mark + mark) if split else meter.feed(end + mark + mark)
    assert out == end + mark
    assert meter.feed(mark) == b""
