"""Final answers in the model's place, whole and streamed."""

import json

import pytest

from gateway.dialects import DIALECTS, PARSERS, answer_fingerprint, final_answer
from gateway.dialects.parsed_answer import parse_answer
from gateway.dialects.sse import events_of, payload_of


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
    meter = DIALECTS[dialect].stream_meter(PARSERS[dialect](json.dumps(request_body).encode()))
    meter.fingerprint_chars = answer_fingerprint.FINGERPRINT_CHARS_MAX
    assert headers["content-type"].startswith("text/event-stream")
    assert meter.feed(body) == body and meter.is_complete and meter.error is None
    assert meter.fingerprint.text == "Stopped."
    assert all(payload_of(event) or b"[DONE]" in event for event in events_of(body))


@pytest.mark.parametrize("dialect", ["chat", "messages", "responses"])
def test_a_final_answer_has_no_call_so_the_agent_s_run_ends(dialect):
    _, body = final_answer.final_answer(dialect, "Stopped.", id="abc", model="m", created=1, stream=False)
    document, parsed = json.loads(body), parse_answer(json.loads(body))
    assert (parsed.text, parsed.calls, parsed.truncated, parsed.refused) == ("Stopped.", (), False, False)
    assert document["model"] == "m" and document["id"].endswith("_abc" if dialect != "chat" else "-abc")
    assert all(count == 0 for count in document["usage"].values() if isinstance(count, int))


def test_the_events_of_a_response_are_numbered_and_repeat_the_text():
    _, body = final_answer.final_answer("responses", "Łódź\n", id="abc", model="m", created=1, stream=True)
    events = [payload for event in events_of(body) if (payload := payload_of(event))]
    assert [event["sequence_number"] for event in events] == list(range(9))
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == events[4]["delta"] == "Łódź\n"


def test_a_chat_answer_ends_with_a_reason_and_the_end_mark():
    _, body = final_answer.final_answer("chat", "Stopped.", id="abc", model="m", created=1, stream=True)
    events = [payload for event in events_of(body) if (payload := payload_of(event))]
    assert [event["choices"][0]["finish_reason"] for event in events] == [None, "stop"]
    assert body.endswith(b"data: [DONE]\n\n")
