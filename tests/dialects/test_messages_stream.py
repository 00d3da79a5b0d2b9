"""Messages streams: usage is cumulative, the fingerprint is that of the first call, early ends close open blocks."""

from typing import Any

from gateway.dialects.answer_fingerprint import FINGERPRINT_CHARS_DEFAULT, AnswerFingerprint
from gateway.dialects.messages_stream import MessagesStreamMeter
from gateway.dialects.sse import encode_event
from gateway.providers.streamed_answer import OUTPUT_IS_PLACEHOLDER
from tests.dialects import stream_checks
from tests.dialects.streams import INPUT_TOKENS, OUTPUT_TOKENS, RAW, boundaries, end_stream, endable_meter


def feed(meter: MessagesStreamMeter, *events: dict[str, Any]) -> None:
    for event in events:
        meter.feed(encode_event(event, named=True))


def message_start(**usage: int | None) -> dict[str, Any]:
    return {"type": "message_start", "message": {"id": "msg_1", "usage": usage}}


def message_delta(reason: str | None = None, **usage: int | None) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage}


def block_delta(index: int, **delta: str) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": delta}


def tool_use(index: int, call_id: str, name: str) -> dict[str, Any]:
    block = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
    return {"type": "content_block_start", "index": index, "content_block": block}


def test_later_usage_replaces_the_counts_that_it_repeats():
    meter = MessagesStreamMeter()
    feed(meter, message_start(input_tokens=9, cache_read_input_tokens=4, output_tokens=1))
    assert meter.id == "msg_1" and OUTPUT_IS_PLACEHOLDER in meter.answer
    feed(meter, message_delta("end_turn", output_tokens=20, input_tokens=None))
    assert meter.usage == {"input_tokens": 9, "cache_read_input_tokens": 4, "output_tokens": 20}
    assert OUTPUT_IS_PLACEHOLDER not in meter.answer and meter.is_complete and not meter.done


def test_a_message_delta_without_a_stop_reason_does_not_complete_the_answer():
    meter = MessagesStreamMeter()
    feed(meter, message_start(input_tokens=9), message_delta(None, output_tokens=3))
    assert not meter.is_complete
    feed(meter, {"type": "message_stop"})
    assert meter.done


def test_an_error_event_is_recorded():
    meter = MessagesStreamMeter()
    feed(meter, message_start(), {"type": "error", "error": {"type": "overloaded_error"}})
    assert meter.error == {"type": "overloaded_error"}


def test_the_fingerprint_holds_the_text_and_the_first_call_only():
    meter = MessagesStreamMeter()
    meter.fingerprint_chars = FINGERPRINT_CHARS_DEFAULT
    feed(
        meter,
        message_start(),
        block_delta(0, type="text_delta", text="I look."),
        tool_use(1, "t1", "look"),
        tool_use(2, "t2", "other"),
        block_delta(1, type="input_json_delta", partial_json='{"a": '),
        block_delta(2, type="input_json_delta", partial_json='{"b": 2}'),
        block_delta(1, type="input_json_delta", partial_json="1}"),
    )
    assert meter.fingerprint == AnswerFingerprint("I look.", "t1", 'look{"a":1}')


def test_text_thinking_and_tool_input_are_counted():
    meter = MessagesStreamMeter()
    feed(
        meter,
        block_delta(0, type="thinking_delta", thinking="abc"),
        block_delta(0, type="signature_delta", signature="not text"),
        block_delta(1, type="text_delta", text="Łódź"),
        block_delta(2, type="input_json_delta", partial_json="{}"),
    )
    assert meter.text_totals() == (3 + 7 + 2, 3)


def test_a_stream_ended_by_an_error_gets_no_ending():
    meter = endable_meter("messages")
    meter.feed(RAW["messages_error"])
    assert meter.error and meter.end_early(INPUT_TOKENS, OUTPUT_TOKENS) == b""


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
