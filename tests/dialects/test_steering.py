"""Notes and forbidden tools in a request, final answers in the model's place, and answer fingerprints."""

import json

import pytest

from gateway.dialects import DIALECTS, answer_fingerprint, chat, final_answer, messages, responses, steering
from gateway.dialects.sse import events_of, payload_of

NOTE = "[Gateway note: change your approach.]"


@pytest.mark.parametrize(
    "upstream_dialect, document, expected",
    [
        ("chat", {"messages": [{"role": "user", "content": "go"}]}, {"role": "user", "content": f"go\n\n{NOTE}"}),
        ("chat", {"messages": [{"role": "user", "content": "go"}, {"role": "assistant", "content": "x"}, {"role": "tool", "tool_call_id": "c", "content": "no"}]},
         {"role": "tool", "tool_call_id": "c", "content": f"no\n\n{NOTE}"}),
        ("chat", {"messages": [{"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "no"}]}]},
         {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "no"}, {"type": "text", "text": NOTE}]}),
        ("chat", {"messages": [{"role": "tool", "tool_call_id": "c", "content": None}]}, {"role": "tool", "tool_call_id": "c", "content": NOTE}),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "no"}]}]},
         {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": f"no\n\n{NOTE}"}]}),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t"}, {"type": "text", "text": "and?"}]}]},
         {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t"}, {"type": "text", "text": "and?"}, {"type": "text", "text": NOTE}]}),
        ("responses", {"input": [{"type": "function_call_output", "call_id": "c", "output": "no"}]},
         {"type": "function_call_output", "call_id": "c", "output": f"no\n\n{NOTE}"}),
        ("responses", {"input": [{"role": "user", "content": [{"type": "input_text", "text": "go"}]}]},
         {"role": "user", "content": [{"type": "input_text", "text": "go"}, {"type": "input_text", "text": NOTE}]}),
    ],
)  # fmt: skip
def test_a_note_is_appended_to_the_newest_turn(upstream_dialect, document, expected):
    before = json.dumps(document)
    name = "input" if upstream_dialect == "responses" else "messages"
    assert steering.append_note(document, upstream_dialect, NOTE)[name][-1] == expected
    assert json.dumps(document) == before


def test_a_note_is_appended_to_a_prompt_that_is_a_string():
    assert steering.append_note({"input": "go"}, "responses", NOTE)["input"] == f"go\n\n{NOTE}"


def test_a_caller_s_prefill_stays_the_last_turn():
    document = {"messages": [{"role": "user", "content": "go"}, {"role": "assistant", "content": "{"}]}
    turns = steering.append_note(document, "messages", NOTE)["messages"]
    assert turns[0]["content"].endswith(NOTE) and turns[1] == document["messages"][1]


@pytest.mark.parametrize(
    "document", [{}, {"messages": None}, {"messages": []}, {"messages": ["x"]}, {"messages": [{"role": "assistant"}]}]
)
def test_a_request_without_a_user_or_tool_turn_is_unchanged(document):
    assert steering.append_note(document, "chat", NOTE) == document


@pytest.mark.parametrize(
    "upstream_dialect, choice", [("chat", "none"), ("responses", "none"), ("messages", {"type": "none"})]
)
def test_forbidden_tools_stay_in_the_request(upstream_dialect, choice):
    tools = [{"name": "f"}]
    assert steering.forbid_tools({"tools": tools}, upstream_dialect) == {"tools": tools, "tool_choice": choice}
    assert steering.forbid_tools({}, upstream_dialect) == {}


@pytest.mark.parametrize("dialect", ["chat", "messages", "responses"])
def test_a_final_answer_is_valid_in_its_dialect(dialect):
    headers, body = final_answer.final_answer(dialect, "Stopped.", id="abc", model="m", created=1, stream=False)
    assert headers["content-type"] == "application/json"
    assert answer_fingerprint.fingerprint_of(json.loads(body)).text == "Stopped."
    assert DIALECTS[dialect].answer_text_bytes(json.loads(body)) == len("Stopped.")


@pytest.mark.parametrize(
    "dialect, request_body",
    [
        ("chat", {"model": "m", "messages": [{"role": "user", "content": "x"}]}),
        ("messages", {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}),
        ("responses", {"model": "m", "input": "x"}),
    ],
)
def test_a_streamed_final_answer_is_complete(dialect, request_body):
    headers, body = final_answer.final_answer(dialect, "Stopped.", id="abc", model="m", created=1, stream=True)
    parse = {"chat": chat, "messages": messages, "responses": responses}[dialect].parse
    meter = DIALECTS[dialect].stream_meter(parse(json.dumps(request_body).encode()))
    meter.fingerprint_chars = answer_fingerprint.FINGERPRINT_CHARS_MAX
    assert headers["content-type"].startswith("text/event-stream")
    assert meter.feed(body) == body and meter.is_complete and meter.error is None
    assert meter.fingerprint.text == "Stopped."
    assert all(payload_of(event) or b"[DONE]" in event for event in events_of(body))


@pytest.mark.parametrize(
    "document, expected",
    [
        ({"choices": [{"message": {"content": "Hi", "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": '{"a": 1}'}}]}}]},
         answer_fingerprint.AnswerFingerprint("Hi", "c1", 'f{"a":1}')),
        ({"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "Hi"}, {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}]},
         answer_fingerprint.AnswerFingerprint("Hi", "t1", 'f{"a":1}')),
        ({"output": [{"type": "reasoning"}, {"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}, {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}]},
         answer_fingerprint.AnswerFingerprint("Hi", "c1", "f{}")),
        ({"choices": []}, answer_fingerprint.NO_FINGERPRINT), ({"choices": [7]}, answer_fingerprint.NO_FINGERPRINT), ({"output": "x", "content": 7}, answer_fingerprint.NO_FINGERPRINT),
        ({"choices": [{"message": {"content": [1], "tool_calls": [None]}}]}, answer_fingerprint.NO_FINGERPRINT),
    ],
)  # fmt: skip
def test_a_fingerprint_holds_the_first_text_and_call(document, expected):
    assert answer_fingerprint.fingerprint_of(document) == expected


def test_a_stream_s_fingerprint_is_recorded_across_chunks():
    meter = chat.stream_meter(chat.parse(b'{"model": "m", "messages": [{"role": "user", "content": "x"}]}'))
    meter.fingerprint_chars = answer_fingerprint.FINGERPRINT_CHARS_DEFAULT
    for text in ("I will ", "look ", "at it.") * 4:
        meter.feed(b"data: " + json.dumps({"choices": [{"delta": {"content": text}}]}).encode() + b"\n\n")
    call = {"index": 0, "id": "c9", "function": {"name": "f", "arguments": "{"}}
    assert meter.fingerprint.text.startswith("I will look at it.") and not meter.fingerprint_chars
    call_meter = chat.stream_meter(chat.parse(b'{"model": "m", "messages": [{"role": "user", "content": "x"}]}'))
    call_meter.fingerprint_chars = answer_fingerprint.FINGERPRINT_CHARS_DEFAULT
    call_meter.feed(b"data: " + json.dumps({"choices": [{"delta": {"tool_calls": [call]}}]}).encode() + b"\n\n")
    assert call_meter.fingerprint == answer_fingerprint.AnswerFingerprint("", "c9", "f{")
