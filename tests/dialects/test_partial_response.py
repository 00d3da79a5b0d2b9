"""A response rebuilt from its events: done items as sent, open ones with their text so far."""

from typing import Any

import pytest

from gateway.dialects.partial_response import PartialResponse
from tests.dialects import stream_checks
from tests.dialects.streams import INPUT_TOKENS, OUTPUT_TOKENS, RAW, boundaries, end_stream, endable_meter
from tests.dialects.synthetic_streams import CITATION, MANY_ITEMS, encode_stream

CREATED = {"type": "response.created", "response": {"id": "resp_1", "status": "in_progress", "output": []}}


def ending(*events: dict[str, Any]) -> list[dict[str, Any]]:
    partial = PartialResponse()
    for event in events:
        partial.read(event)
    return list(partial.closing_events({"total_tokens": 3}))


def added(item: dict[str, Any], index: int = 0) -> dict[str, Any]:
    return {"type": "response.output_item.added", "output_index": index, "item": item}


def done(item: dict[str, Any], index: int = 0) -> dict[str, Any]:
    return {"type": "response.output_item.done", "output_index": index, "item": item}


def test_a_response_that_has_not_begun_has_no_ending():
    assert ending() == ending({"type": "response.output_text.delta", "output_index": 0, "delta": "x"}) == []


def test_an_empty_response_ends_as_incomplete():
    (event,) = ending(CREATED)
    assert event["type"] == "response.incomplete" and event["sequence_number"] == 1
    assert event["response"] == {
        "id": "resp_1", "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}, "output": [],
        "usage": {"total_tokens": 3},
    }  # fmt: skip


def test_done_items_are_repeated_as_sent_and_in_order():
    first, second = {"id": "a", "type": "message", "status": "completed"}, {"id": "b", "type": "reasoning"}
    (event,) = ending(CREATED, added({"id": "a"}), added({"id": "b"}, 1), done(second, 1), done(first))
    assert event["response"]["output"] == [first, second]


@pytest.mark.parametrize(
    "events, arguments",
    [
        ([{"delta": '{"a"'}, {"delta": ": 1"}], '{"a": 1'),
        ([{"delta": '{"a"'}, {"arguments": '{"a": 1}'}], '{"a": 1}'),
        ([{"delta": 7}], None),
    ],
    ids=["deltas", "the whole text replaces the deltas", "a delta of another type"],
)
def test_the_arguments_of_an_open_call_are_those_so_far(events, arguments):
    call = {"id": "fc_1", "type": "function_call", "status": "in_progress", "call_id": "c"}
    texts = [
        {
            "type": f"response.function_call_arguments.{'delta' if 'delta' in event else 'done'}",
            "output_index": 0,
            **event,
        }
        for event in events
    ]
    (event,) = ending(CREATED, added(call), *texts)
    (item,) = event["response"]["output"]
    assert (item.get("arguments"), item["status"]) == (arguments, "incomplete")


def test_a_text_without_its_part_gets_one():
    message = {"id": "msg_1", "type": "message", "status": "in_progress", "content": []}
    text = {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "Hi"}
    events = ending(CREATED, added(message), text)
    assert [event["type"] for event in events] == [
        "response.output_text.done", "response.content_part.done", "response.output_item.done", "response.incomplete",
    ]  # fmt: skip
    assert events[-1]["response"]["output"][0]["content"] == [{"type": "output_text", "text": "Hi"}]


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
