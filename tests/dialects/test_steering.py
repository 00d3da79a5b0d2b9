"""What the gateway adds to a request to steer an agent, and what it says in the model's place."""

import json

import pytest

from gateway.dialects import DIALECTS, answer_fingerprint, chat, final_answer, messages, responses, steering
from gateway.dialects.sse import events_of, payload_of

NOTE = "[Gateway note: change your approach.]"


@pytest.mark.parametrize(
    "speech, document, told",
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
def test_a_note_goes_to_the_newest_turn(speech, document, told):
    before = json.dumps(document)
    name = "input" if speech == "responses" else "messages"
    assert steering.append_note(document, speech, NOTE)[name][-1] == told
    assert json.dumps(document) == before


def test_a_note_to_a_prompt_that_is_a_text():
    assert steering.append_note({"input": "go"}, "responses", NOTE)["input"] == f"go\n\n{NOTE}"


def test_a_prefill_of_the_callers_stays_the_last_turn():
    document = {"messages": [{"role": "user", "content": "go"}, {"role": "assistant", "content": "{"}]}
    found = steering.append_note(document, "messages", NOTE)["messages"]
    assert found[0]["content"].endswith(NOTE) and found[1] == document["messages"][1]


@pytest.mark.parametrize(
    "document", [{}, {"messages": None}, {"messages": []}, {"messages": ["x"]}, {"messages": [{"role": "assistant"}]}]
)
def test_where_there_is_nobody_to_tell_nothing_changes(document):
    assert steering.append_note(document, "chat", NOTE) == document


@pytest.mark.parametrize("speech, choice", [("chat", "none"), ("responses", "none"), ("messages", {"type": "none"})])
def test_tools_are_withheld_but_stay_in_the_request(speech, choice):
    tools = [{"name": "f"}]
    assert steering.forbid_tools({"tools": tools}, speech) == {"tools": tools, "tool_choice": choice}
    assert steering.forbid_tools({}, speech) == {}


@pytest.mark.parametrize("dialect", ["chat", "messages", "responses"])
def test_a_last_answer_is_one_that_our_own_readers_understand(dialect):
    told = {"id": "abc", "model": "m", "created": 1, "stream": False}
    kind, body = final_answer.final_answer(dialect, "Stopped.", **told)
    assert kind["content-type"] == "application/json"
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
def test_a_streamed_last_answer_comes_to_its_end(dialect, request_body):
    kind, body = final_answer.final_answer(dialect, "Stopped.", id="abc", model="m", created=1, stream=True)
    parse = {"chat": chat, "messages": messages, "responses": responses}[dialect].parse
    meter = DIALECTS[dialect].stream_meter(parse(json.dumps(request_body).encode()))
    meter.fingerprint_chars = answer_fingerprint.FINGERPRINT_CHARS_MAX
    assert kind["content-type"].startswith("text/event-stream")
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
def test_how_an_answer_begins(document, expected):
    assert answer_fingerprint.fingerprint_of(document) == expected


def test_a_stream_is_heard_in_pieces():
    meter = chat.stream_meter(chat.parse(b'{"model": "m", "messages": [{"role": "user", "content": "x"}]}'))
    meter.fingerprint_chars = answer_fingerprint.FINGERPRINT_CHARS_DEFAULT
    for text in ("I will ", "look ", "at it.") * 4:
        meter.feed(b"data: " + json.dumps({"choices": [{"delta": {"content": text}}]}).encode() + b"\n\n")
    call = {"index": 0, "id": "c9", "function": {"name": "f", "arguments": "{"}}
    assert meter.fingerprint.text.startswith("I will look at it.") and not meter.fingerprint_chars
    other = chat.stream_meter(chat.parse(b'{"model": "m", "messages": [{"role": "user", "content": "x"}]}'))
    other.fingerprint_chars = answer_fingerprint.FINGERPRINT_CHARS_DEFAULT
    other.feed(b"data: " + json.dumps({"choices": [{"delta": {"tool_calls": [call]}}]}).encode() + b"\n\n")
    assert other.fingerprint == answer_fingerprint.AnswerFingerprint("", "c9", "f{")
