"""A stream that is ended here looks as if its output limit had been reached, wherever it is cut."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects import DIALECTS, PARSERS, sse
from gateway.dialects.chat_stream import ChatStreamMeter, text_bytes
from gateway.dialects.passthrough import PassThroughStreamMeter
from gateway.dialects.translation import TranslatedStream, Translator
from tests.dialects import stream_checks
from tests.dialects.synthetic_streams import CITATION, MANY_ITEMS, SYNTHETIC_STREAMS, encode_stream
from tests.dialects.test_streams import ASKED, CROSSED, CUTS, RECORDED, STREAMS, pieces

GIVEN, WRITTEN = 11, 7
REASONS = {"chat": "length", "completions": "length", "messages": "max_tokens", "responses": "max_output_tokens"}
RAW = {
    name: (RECORDED / f"{name}.sse").read_bytes() for names in STREAMS.values() for name in names
} | SYNTHETIC_STREAMS
WHOLE = [(dialect, name) for dialect, names in STREAMS.items() for name in names if "error" not in name]
CASES = [
    *WHOLE,
    ("chat", "several choices"),
    ("chat", "a chunk without choices first"),
    ("chat", "usage beside the reason"),
    ("completions", "several prompts"),
    ("messages", "interleaved tools"),
    ("responses", "many items"),
]


def watched(dialect: str) -> sse.StreamMeter:
    meter = DIALECTS[dialect].stream_meter(PARSERS[dialect](ASKED[dialect]))
    meter.may_end_early = True
    return meter


def boundaries(raw: bytes) -> list[int]:
    """Where events end, but for the last one, which ends the stream itself."""
    return list(itertools.accumulate(map(len, sse.events_of(raw))))[:-1]


def cut(dialect: str, raw: bytes, at: int, cuts: list[int]) -> bytes:
    """The stream ended after `at` bytes of it have come in pieces."""
    meter = watched(dialect)
    out = b"".join(meter.feed(piece) for piece in pieces(raw[:at], cuts))
    return out + meter.end_early(GIVEN, WRITTEN)


def check(dialect: str, raw: bytes) -> set[str]:
    """The reasons why a stream ended, once it is known to be a whole one of its dialect."""
    if dialect in ("chat", "completions"):
        return set(stream_checks.check_chat_stream(raw).values())
    return {
        stream_checks.check_messages_stream(raw) if dialect == "messages" else stream_checks.check_responses_stream(raw)
    }


def given_reasons(dialect: str, raw: bytes) -> set[str]:
    """The reasons that the provider itself has given so far."""
    found = stream_checks.payloads(raw)
    if dialect == "messages":
        return {event["delta"]["stop_reason"] for event in found if event["type"] == "message_delta"}
    choices = [choice for event in found for choice in event.get("choices", ())]
    return {choice["finish_reason"] for choice in choices if choice["finish_reason"]}


@pytest.mark.parametrize("dialect, name", CASES)
def test_wherever_it_is_cut_the_whole_is_an_answer_that_met_its_limit(dialect, name):
    raw = RAW[name]
    for at in boundaries(raw):
        out = cut(dialect, raw, at, [at // 3, at // 2])
        assert out.startswith(raw[:at])
        reasons = check(dialect, out)
        if given_reasons(dialect, raw[:at]):
            assert reasons <= given_reasons(dialect, raw[:at]) | {REASONS[dialect]}
        else:
            assert reasons == {REASONS[dialect]}


@pytest.mark.parametrize("dialect, name", CASES)
@given(at=st.integers(1, 20_000), cuts=CUTS)
@settings(max_examples=40, deadline=None)
def test_neither_chunking_nor_half_an_event_makes_a_difference(dialect, name, at, cuts):
    raw = RAW[name]
    ends = boundaries(raw)
    at = max(at % len(raw), ends[0])
    assert cut(dialect, raw, at, cuts) == cut(dialect, raw, max(end for end in ends if end <= at), [])


@pytest.mark.parametrize("dialect, name", CASES)
def test_after_the_ending_the_stream_is_over(dialect, name):
    raw, meter = RAW[name], watched(dialect)
    half = boundaries(raw)[1] + 5
    meter.feed(raw[:half])
    meter.end_early(GIVEN, WRITTEN)
    assert meter.done and meter.is_complete
    assert meter.feed(raw[half:]) + meter.feed(b"x" * 9) + meter.finish() + meter.end_early(GIVEN, WRITTEN) == b""


@pytest.mark.parametrize("dialect, name", WHOLE)
@given(cuts=CUTS)
@settings(max_examples=20, deadline=None)
def test_to_be_watched_changes_nothing_for_the_caller(dialect, name, cuts):
    raw, plain, seen = RAW[name], DIALECTS[dialect].stream_meter(PARSERS[dialect](ASKED[dialect])), watched(dialect)
    assert b"".join(map(seen.feed, pieces(raw, cuts))) == b"".join(map(plain.feed, pieces(raw, cuts))) == raw
    assert (seen.usage, seen.done, seen.is_complete, seen.id) == (plain.usage, plain.done, plain.is_complete, plain.id)


def texts_of(payload: dict[str, Any]) -> int:
    """Bytes that the model wrote in one event of any dialect."""
    delta = payload.get("delta")
    if isinstance(delta, str):
        return len(delta.encode())
    if isinstance(delta, dict):
        return sum(len(delta.get(name, "").encode()) for name in ("text", "thinking", "partial_json"))
    return sum(
        text_bytes(one.get("delta", {})) + len(one.get("text", "").encode()) for one in payload.get("choices", ())
    )


@pytest.mark.parametrize("dialect, name", WHOLE)
def test_a_watched_text_is_weighed_to_the_byte(dialect, name):
    meter = watched(dialect)
    meter.feed(RAW[name])
    weights = list(map(texts_of, stream_checks.payloads(RAW[name])))
    assert meter.text_totals() == (sum(weights), sum(map(bool, weights)))


@pytest.mark.parametrize("dialect", STREAMS)
@pytest.mark.parametrize(
    "before", [b"", b": keep-alive\n\n", b"data: {"], ids=["nothing", "a comment", "half an event"]
)
def test_what_has_not_begun_is_not_ended(dialect, before):
    meter = watched(dialect)
    meter.feed(before)
    assert meter.end_early(GIVEN, WRITTEN) == b""
    assert meter.done


def test_what_an_error_has_ended_is_not_ended_again():
    meter = watched("messages")
    meter.feed(RAW["messages_error"])
    assert meter.error and meter.end_early(GIVEN, WRITTEN) == b""


def test_a_stream_of_an_unknown_dialect_just_stops():
    meter = PassThroughStreamMeter()
    meter.may_end_early = True
    assert meter.feed(b'data: {"x":1}\n\n') == b'data: {"x":1}\n\n'
    assert (meter.end_early(GIVEN, WRITTEN), meter.done) == (b"", True)


def test_a_caller_who_did_not_ask_is_told_no_usage():
    meter = ChatStreamMeter(withhold_usage=True)
    meter.may_end_early = True
    for at in boundaries(RAW["several choices"]):
        out = meter.feed(RAW["several choices"][:at]) + meter.end_early(GIVEN, WRITTEN)
        assert set(stream_checks.check_chat_stream(out, usage=False).values()) <= {"length", "stop"}
        meter = ChatStreamMeter(withhold_usage=True)
        meter.may_end_early = True


def test_a_chat_ending_says_all_that_its_chunks_said():
    out = cut("chat", RAW["several choices"], boundaries(RAW["several choices"])[3], [])
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 7, "model": "m", "system_fingerprint": "fp_1"}
    length = {"delta": {}, "logprobs": None, "finish_reason": "length"}
    usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    assert stream_checks.payloads(out)[4:] == [
        {**head, "choices": [{"index": 0, **length}], "usage": None},
        {**head, "choices": [{"index": 2, **length}], "usage": None},
        {**head, "choices": [], "usage": usage},
    ]


def test_a_messages_ending_counts_what_was_written():
    out = cut("messages", RAW["messages_text"], boundaries(RAW["messages_text"])[4], [])
    assert stream_checks.payloads(out)[5:] == [
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "max_tokens", "stop_sequence": None}, "usage": {"output_tokens": 7}},
        {"type": "message_stop"},
    ]  # fmt: skip


def test_a_stop_reason_that_was_said_stands():
    raw = RAW["messages_text"]
    assert cut("messages", raw, boundaries(raw)[-1], []) == raw.replace(
        b'data: {"type": "message_stop"}', b'data: {"type":"message_stop"}'
    )


def test_a_response_is_closed_with_all_that_it_held():
    raw = RAW["many items"]
    last = stream_checks.payloads(cut("responses", raw, len(raw), []))[-1]["response"]
    reasoning, search, message, call = last["output"]
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "so, hm"}] and "status" not in reasoning
    assert search["status"] == call["status"] == message["status"] == "incomplete"
    assert [part.get("text", part.get("refusal")) for part in message["content"]] == ["see [1]", "no more"]
    assert message["content"][0]["annotations"] == [CITATION]
    assert call["input"] == "*** Begin Patch"
    assert last["usage"] == {
        "input_tokens": 11, "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 7, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 18,
    }  # fmt: skip


def test_a_citation_before_the_end_of_its_text_is_kept():
    raw = RAW["many items"]
    place = next(n for n, event in enumerate(MANY_ITEMS) if event["type"] == "response.output_text.annotation.added")
    last = stream_checks.payloads(cut("responses", raw, boundaries(raw)[place], []))[-1]["response"]
    assert last["output"][2]["content"][0]["annotations"] == [CITATION]


def test_a_call_that_was_cut_off_is_not_reported_done():
    raw = RAW["many items"]
    kinds = [(e["type"], e.get("output_index")) for e in stream_checks.payloads(cut("responses", raw, len(raw), []))]
    assert [index for kind, index in kinds if kind == "response.output_item.done"] == [0, 2]


def test_where_events_bear_no_number_they_are_counted():
    bare = [{name: value for name, value in event.items() if name != "sequence_number"} for event in MANY_ITEMS]
    meter = watched("responses")
    meter.feed(encode_stream(bare, named=True))
    assert stream_checks.payloads(meter.end_early(GIVEN, WRITTEN))[0]["sequence_number"] == len(bare)


@pytest.mark.parametrize("dialect", STREAMS)
@given(noise=st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner) | st.dictionaries(
    st.sampled_from(["type", "choices", "index", "output_index", "item", "part", "delta", "response", "message", "usage", "content_index"]), inner), max_leaves=12))  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_events_of_another_shape_never_raise(dialect, noise):
    kinds = ("response.output_item.added", "response.content_part.added", "response.output_text.delta", "content_block_start", "content_block_stop")  # fmt: skip
    meter = watched(dialect)
    first = next(iter(sse.events_of(RAW[STREAMS[dialect][0]])))
    meter.feed(first)
    for kind in kinds:
        odd = {**noise, "type": kind} if isinstance(noise, dict) else {"type": kind, "output_index": 0, "item": noise}
        meter.feed(b"data: " + json.dumps(odd).encode() + b"\n\n")
    meter.end_early(GIVEN, WRITTEN)


def crossed(caller: str, upstream: str, raw: bytes, at: int) -> bytes:
    """A stream that is cut and ended in the provider's dialect, as the caller gets it."""
    request = PARSERS[caller](ASKED[caller])
    translator = Translator(request)
    translated = translator.translate(upstream, extended=False)
    back = TranslatedStream(
        translator.answer_translator(translated, upstream, answer_id="a1", created=7), chat=caller == "chat"
    )
    meter = DIALECTS[upstream].stream_meter(request)
    meter.may_end_early = True
    out = back.feed(meter.feed(raw[: at + 3]))
    return out + back.feed(meter.end_early(GIVEN, WRITTEN)) + back.finish()


@pytest.mark.parametrize("caller, upstream, name", [case for case in CROSSED if "error" not in case[2]])
def test_an_ending_is_crossed_to_the_caller_s_own(caller, upstream, name):
    raw = RAW[name]
    for at in boundaries(raw):
        reasons = check(caller, crossed(caller, upstream, raw, at))
        if not given_reasons(upstream, raw[:at]):
            assert reasons == {REASONS[caller]}


@pytest.mark.parametrize("caller, upstream, name", [case for case in CROSSED if "error" not in case[2]])
def test_a_crossed_ending_tells_the_usage(caller, upstream, name):
    raw = RAW[name]
    last = stream_checks.payloads(crossed(caller, upstream, raw, boundaries(raw)[4]))
    usage = next(
        e["usage"] if "usage" in e else e["response"]["usage"]
        for e in reversed(last)
        if e.get("usage") or "response" in e
    )
    assert usage.get("output_tokens", usage.get("completion_tokens")) == WRITTEN
