"""Streams ended early by the gateway look as if their output limit had been reached, wherever they are cut."""

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
from tests.dialects.test_streams import CUTS, RECORDED, STREAM_REQUESTS, STREAMS, TRANSLATED_CASES, pieces

INPUT_TOKENS, OUTPUT_TOKENS = 11, 7
REASONS = {"chat": "length", "completions": "length", "messages": "max_tokens", "responses": "max_output_tokens"}
RAW = {
    name: (RECORDED / f"{name}.sse").read_bytes() for names in STREAMS.values() for name in names
} | SYNTHETIC_STREAMS
COMPLETE_CASES = [(dialect, name) for dialect, names in STREAMS.items() for name in names if "error" not in name]
CASES = [
    *COMPLETE_CASES,
    ("chat", "several choices"),
    ("chat", "a chunk without choices first"),
    ("chat", "usage beside the reason"),
    ("completions", "several prompts"),
    ("messages", "interleaved tools"),
    ("responses", "many items"),
]


def endable_meter(dialect: str) -> sse.StreamMeter:
    meter = DIALECTS[dialect].stream_meter(PARSERS[dialect](STREAM_REQUESTS[dialect]))
    meter.may_end_early = True
    return meter


def boundaries(raw: bytes) -> list[int]:
    """Offsets where events end, without the last one, which ends the stream itself."""
    return list(itertools.accumulate(map(len, sse.events_of(raw))))[:-1]


def end_stream(dialect: str, raw: bytes, at: int, cuts: list[int]) -> bytes:
    """The stream, ended after `at` bytes that were fed in pieces."""
    meter = endable_meter(dialect)
    out = b"".join(meter.feed(piece) for piece in pieces(raw[:at], cuts))
    return out + meter.end_early(INPUT_TOKENS, OUTPUT_TOKENS)


def check(dialect: str, raw: bytes) -> set[str]:
    """Check that a stream is complete in its dialect, and return its finish reasons."""
    if dialect in ("chat", "completions"):
        return set(stream_checks.check_chat_stream(raw).values())
    return {
        stream_checks.check_messages_stream(raw) if dialect == "messages" else stream_checks.check_responses_stream(raw)
    }


def provider_reasons(dialect: str, raw: bytes) -> set[str]:
    """The finish reasons that the provider has sent so far."""
    events = stream_checks.payloads(raw)
    if dialect == "messages":
        return {event["delta"]["stop_reason"] for event in events if event["type"] == "message_delta"}
    choices = [choice for event in events for choice in event.get("choices", ())]
    return {choice["finish_reason"] for choice in choices if choice["finish_reason"]}


@pytest.mark.parametrize("dialect, name", CASES)
def test_a_stream_cut_at_any_event_is_an_answer_that_reached_its_output_limit(dialect, name):
    raw = RAW[name]
    for at in boundaries(raw):
        out = end_stream(dialect, raw, at, [at // 3, at // 2])
        assert out.startswith(raw[:at])
        reasons = check(dialect, out)
        if provider_reasons(dialect, raw[:at]):
            assert reasons <= provider_reasons(dialect, raw[:at]) | {REASONS[dialect]}
        else:
            assert reasons == {REASONS[dialect]}


@pytest.mark.parametrize("dialect, name", CASES)
@given(at=st.integers(1, 20_000), cuts=CUTS)
@settings(max_examples=40, deadline=None)
def test_chunking_and_an_incomplete_event_do_not_change_the_ending(dialect, name, at, cuts):
    raw = RAW[name]
    ends = boundaries(raw)
    at = max(at % len(raw), ends[0])
    assert end_stream(dialect, raw, at, cuts) == end_stream(dialect, raw, max(end for end in ends if end <= at), [])


@pytest.mark.parametrize("dialect, name", CASES)
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


@pytest.mark.parametrize("dialect", STREAMS)
@pytest.mark.parametrize(
    "before", [b"", b": keep-alive\n\n", b"data: {"], ids=["no data", "a comment", "an incomplete event"]
)
def test_a_stream_that_has_not_begun_gets_no_ending(dialect, before):
    meter = endable_meter(dialect)
    meter.feed(before)
    assert meter.end_early(INPUT_TOKENS, OUTPUT_TOKENS) == b""
    assert meter.done


def test_a_stream_ended_by_an_error_gets_no_ending():
    meter = endable_meter("messages")
    meter.feed(RAW["messages_error"])
    assert meter.error and meter.end_early(INPUT_TOKENS, OUTPUT_TOKENS) == b""


def test_a_passed_through_stream_stops_without_an_ending():
    meter = PassThroughStreamMeter()
    meter.may_end_early = True
    assert meter.feed(b'data: {"x":1}\n\n') == b'data: {"x":1}\n\n'
    assert (meter.end_early(INPUT_TOKENS, OUTPUT_TOKENS), meter.done) == (b"", True)


def test_an_ending_has_no_usage_for_a_caller_who_did_not_request_it():
    meter = ChatStreamMeter(withhold_usage=True)
    meter.may_end_early = True
    for at in boundaries(RAW["several choices"]):
        out = meter.feed(RAW["several choices"][:at]) + meter.end_early(INPUT_TOKENS, OUTPUT_TOKENS)
        assert set(stream_checks.check_chat_stream(out, usage=False).values()) <= {"length", "stop"}
        meter = ChatStreamMeter(withhold_usage=True)
        meter.may_end_early = True


def test_a_chat_ending_repeats_the_fields_of_its_chunks():
    out = end_stream("chat", RAW["several choices"], boundaries(RAW["several choices"])[3], [])
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 7, "model": "m", "system_fingerprint": "fp_1"}
    length = {"delta": {}, "logprobs": None, "finish_reason": "length"}
    usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    assert stream_checks.payloads(out)[4:] == [
        {**head, "choices": [{"index": 0, **length}], "usage": None},
        {**head, "choices": [{"index": 2, **length}], "usage": None},
        {**head, "choices": [], "usage": usage},
    ]


def test_a_messages_ending_counts_the_output_tokens():
    out = end_stream("messages", RAW["messages_text"], boundaries(RAW["messages_text"])[4], [])
    assert stream_checks.payloads(out)[5:] == [
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "max_tokens", "stop_sequence": None}, "usage": {"output_tokens": 7}},
        {"type": "message_stop"},
    ]  # fmt: skip


def test_a_stop_reason_that_was_sent_is_kept():
    raw = RAW["messages_text"]
    assert end_stream("messages", raw, boundaries(raw)[-1], []) == raw.replace(
        b'data: {"type": "message_stop"}', b'data: {"type":"message_stop"}'
    )


def test_a_responses_ending_repeats_all_items():
    raw = RAW["many items"]
    last = stream_checks.payloads(end_stream("responses", raw, len(raw), []))[-1]["response"]
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


def test_a_citation_within_an_unfinished_text_is_kept():
    raw = RAW["many items"]
    annotation = "response.output_text.annotation.added"
    index = next(index for index, event in enumerate(MANY_ITEMS) if event["type"] == annotation)
    last = stream_checks.payloads(end_stream("responses", raw, boundaries(raw)[index], []))[-1]["response"]
    assert last["output"][2]["content"][0]["annotations"] == [CITATION]


def test_a_call_that_was_cut_off_is_not_reported_done():
    raw = RAW["many items"]
    events = stream_checks.payloads(end_stream("responses", raw, len(raw), []))
    assert [event["output_index"] for event in events if event["type"] == "response.output_item.done"] == [0, 2]


def test_events_without_sequence_numbers_are_counted():
    unnumbered = [{name: value for name, value in event.items() if name != "sequence_number"} for event in MANY_ITEMS]
    meter = endable_meter("responses")
    meter.feed(encode_stream(unnumbered, named=True))
    assert stream_checks.payloads(meter.end_early(INPUT_TOKENS, OUTPUT_TOKENS))[0]["sequence_number"] == len(unnumbered)


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


def translate_ended_stream(caller: str, upstream: str, raw: bytes, at: int) -> bytes:
    """A stream cut and ended in the upstream dialect, as the caller receives it."""
    request = PARSERS[caller](STREAM_REQUESTS[caller])
    translator = Translator(request)
    translated = translator.translate(upstream, extended=False)
    stream = TranslatedStream(
        translator.answer_translator(translated, upstream, answer_id="a1", created=7), chat=caller == "chat"
    )
    meter = DIALECTS[upstream].stream_meter(request)
    meter.may_end_early = True
    out = stream.feed(meter.feed(raw[: at + 3]))
    return out + stream.feed(meter.end_early(INPUT_TOKENS, OUTPUT_TOKENS)) + stream.finish()


@pytest.mark.parametrize("caller, upstream, name", [case for case in TRANSLATED_CASES if "error" not in case[2]])
def test_an_ending_is_translated_to_the_caller_s_dialect(caller, upstream, name):
    raw = RAW[name]
    for at in boundaries(raw):
        reasons = check(caller, translate_ended_stream(caller, upstream, raw, at))
        if not provider_reasons(upstream, raw[:at]):
            assert reasons == {REASONS[caller]}


@pytest.mark.parametrize("caller, upstream, name", [case for case in TRANSLATED_CASES if "error" not in case[2]])
def test_a_translated_ending_reports_usage(caller, upstream, name):
    raw = RAW[name]
    events = stream_checks.payloads(translate_ended_stream(caller, upstream, raw, boundaries(raw)[4]))
    usage = next(
        event["usage"] if "usage" in event else event["response"]["usage"]
        for event in reversed(events)
        if event.get("usage") or "response" in event
    )
    assert usage.get("output_tokens", usage.get("completion_tokens")) == OUTPUT_TOKENS
