"""Chat answers to Responses, whole and chunk by chunk."""

from typing import Any

import pytest

from gateway.dialects import sse
from gateway.dialects.translation.responses_to_chat import unseal_reasoning
from tests.dialects import stream_checks
from tests.dialects.translation.translating import answer_translator

SEALING: dict[str, Any] = {"include": ["reasoning.encrypted_content"]}
BLOCK = {"type": "thinking", "thinking": "hm", "signature": "s"}


def events_of(*deltas: dict[str, Any], reason: str = "stop", **fields: Any) -> list[dict[str, Any]]:
    translator = answer_translator("responses", "chat", stream=True, **fields)
    chunks: list[dict[str, Any]] = [{"choices": [{"delta": delta}]} for delta in deltas]
    chunks.append(
        {"choices": [{"delta": {}, "finish_reason": reason}], "usage": {"prompt_tokens": 3, "completion_tokens": 5}}
    )
    return [event for chunk in chunks for event in translator.feed(chunk)] + translator.end()


def answer(message: dict[str, Any], reason: str = "stop", **fields: Any) -> dict[str, Any]:
    document = {
        "choices": [{"message": message, "finish_reason": reason}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 5},
    }
    return answer_translator("responses", "chat", **fields).translate_document(document)


CALL = {"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    "deltas, types",
    [
        ([{"content": "Hi"}], ["message"]),
        (
            [{"reasoning_content": "hm"}, {"content": "Hi"}, {"tool_calls": [CALL]}],
            ["reasoning", "message", "function_call"],
        ),
        ([{"content": "a"}, {"tool_calls": [CALL]}, {"content": "b"}], ["message", "function_call", "message"]),
        ([{"refusal": "No."}], ["message"]),
        ([], []),
    ],
    ids=["text", "reasoning, text and a call", "text after a call", "a refusal", "nothing"],
)
def test_a_translated_stream_is_valid_and_repeats_its_items(deltas, types):
    events = events_of(*deltas)
    assert stream_checks.check_responses_stream(b"".join(sse.encode_event(event, named=True) for event in events)) == ""
    assert [item["type"] for item in events[-1]["response"]["output"]] == types


def test_interleaved_calls_keep_their_arguments():
    events = events_of(
        {"tool_calls": [{"index": 0, "id": "c0", "function": {"name": "f", "arguments": "{"}}]},
        {"tool_calls": [{"index": 1, "id": "c1", "function": {"name": "g"}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]},
    )
    calls = [(item["call_id"], item["name"], item["arguments"]) for item in events[-1]["response"]["output"]]
    assert calls == [("c0", "f", "{}"), ("c1", "g", "{}")]


@pytest.mark.parametrize(
    "reason, status, details",
    [
        ("stop", "completed", None),
        ("tool_calls", "completed", None),
        ("length", "incomplete", {"reason": "max_output_tokens"}),
        ("content_filter", "incomplete", {"reason": "content_filter"}),
    ],
)
def test_a_finish_reason_is_a_status(reason, status, details):
    response = answer({"content": "Hi"}, reason)
    assert (response["status"], response["incomplete_details"]) == (status, details)
    assert events_of({"content": "Hi"}, reason=reason)[-1]["type"] == f"response.{status}"


def test_signed_thinking_is_sealed_for_a_caller_who_asked_for_it():
    message = {"reasoning_content": "hm", "thinking_blocks": [BLOCK], "content": "Hi"}
    reasoning, _ = answer(message, **SEALING)["output"]
    assert reasoning["summary"] == [{"type": "summary_text", "text": "hm"}]
    assert unseal_reasoning(reasoning["encrypted_content"]) == [BLOCK]
    assert "encrypted_content" not in answer(message)["output"][0]


def test_a_block_that_is_repeated_as_it_grows_is_kept_once_signed():
    growing = {"type": "thinking", "thinking": "h"}
    events = events_of(
        {"reasoning_content": "h", "thinking_blocks": [growing]},
        {"reasoning_content": "m", "thinking_blocks": [BLOCK]},
        **SEALING,
    )
    (item,) = events[-1]["response"]["output"]
    assert unseal_reasoning(item["encrypted_content"]) == [BLOCK]
    assert item["summary"][0]["text"] == "hm"


def test_the_response_echoes_the_request():
    response = answer(
        {"content": "Hi"}, instructions="be brief", temperature=0.5, metadata={"a": "b"}, reasoning={"effort": "low"}
    )
    assert (response["id"], response["object"], response["created_at"], response["model"]) == (
        "resp_a",
        "response",
        1,
        "m",
    )
    assert (response["instructions"], response["temperature"], response["metadata"]) == ("be brief", 0.5, {"a": "b"})
    assert (response["top_p"], response["tool_choice"]) == (1.0, "auto")
    assert response["reasoning"] == {"effort": "low", "summary": None}


def free_text_answer(arguments: str) -> dict[str, Any]:
    call = {"id": "c", "function": {"name": "exec", "arguments": arguments}}
    response = answer({"content": None, "tool_calls": [call]}, tools=[{"type": "custom", "name": "exec"}])
    item: dict[str, Any] = response["output"][0]
    assert item["type"] == "custom_tool_call"
    return item


@pytest.mark.parametrize(
    "arguments, text",
    [('{"input": "ls"}', "ls"), ("ls", "ls"), ('{"other": 1}', '{"other": 1}'), ('{"input": 7}', '{"input": 7}')],
)
def test_a_free_text_call_is_unwrapped_where_it_has_the_expected_shape(arguments, text):
    assert free_text_answer(arguments)["input"] == text


def test_a_call_without_an_id_gets_one():
    response = answer({"tool_calls": [{"function": {"name": "f", "arguments": ""}}]}, "tool_calls")
    (item,) = response["output"]
    assert (item["call_id"], item["arguments"], item["status"]) == ("call_a_0", "{}", "completed")


def test_an_answer_of_another_shape_is_empty():
    translated = answer_translator("responses", "chat").translate_document({"choices": [7], "usage": None})
    assert (translated["output"], translated["usage"], translated["status"]) == ([], None, "completed")
