"""Chat-completions streams: chunking changes neither bytes nor usage; incomplete and invalid input."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.answer_fingerprint import FINGERPRINT_CHARS_DEFAULT, AnswerFingerprint
from gateway.dialects.chat_stream import ChatStreamMeter, text_bytes
from gateway.providers import openai_compatible
from gateway.values.usage import Usage
from tests.dialects import stream_checks
from tests.dialects.streams import INPUT_TOKENS, OUTPUT_TOKENS, RAW, boundaries, end_stream


def event(content: str | None = None, end: str = "\n\n", **fields: object) -> bytes:
    choices = [] if content is None else [{"index": 0, "delta": {"content": content}, "finish_reason": None}]
    return f"data: {json.dumps({'id': 'c1', 'choices': choices} | fields)}{end}".encode()


USAGE = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}
FINISH = b'data: {"id":"c1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"
TEXTS = ["Hel", "lo ", "wörld", ' "usage":{', "[DONE] ", "a" * 50]
PLAIN = b"".join(event(text, usage=None) for text in TEXTS) + FINISH + event(usage=USAGE) + DONE
CRLF = (b"".join(event(text) for text in TEXTS) + FINISH + event(usage=USAGE) + DONE).replace(b"\n", b"\r\n")
COMMENTS = b": keep-alive\n\n" + event("x") + b"event: ping\ndata: {}\n\n" + FINISH + DONE


def run(raw: bytes, cuts: list[int], *, withhold: bool) -> tuple[bytes, ChatStreamMeter]:
    stream, out, position = ChatStreamMeter(withhold_usage=withhold), b"", 0
    for cut in [*sorted(cut % (len(raw) + 1) for cut in cuts), len(raw)]:
        if cut > position:
            out += stream.feed(raw[position:cut])
            position = cut
    return out + stream.finish(), stream


@pytest.mark.parametrize("raw", [PLAIN, CRLF, COMMENTS], ids=["plain", "CRLF line ends", "comments and events"])
@given(cuts=st.lists(st.integers(0, 10_000), max_size=30))
def test_any_chunking_gives_the_same_bytes_and_the_same_usage(raw, cuts):
    whole_output, whole = run(raw, [], withhold=False)
    chunked_output, chunked = run(raw, cuts, withhold=False)
    assert whole_output == chunked_output == raw
    assert (whole.usage, whole.done, whole.is_complete) == (chunked.usage, chunked.done, chunked.is_complete)


OPENING = event("", usage={"prompt_tokens": 1000, "completion_tokens": 1, "total_tokens": 1001})
GROWING = [event("word ", usage={"prompt_tokens": 1000, "completion_tokens": n}) for n in range(1, 401)]
NO_TEXT = event("", usage=None)


@pytest.mark.parametrize(
    "events, is_final",
    [
        ([OPENING, *[event("word ")] * 400, FINISH, DONE], False),
        ([OPENING, *[event("word ")] * 400], False),
        ([OPENING, event("Hi"), FINISH, DONE], False),
        ([OPENING, *[event("word ")] * 400, event(usage=dict.fromkeys(USAGE, 0)), DONE], False),
        ([OPENING, *[event("word ")] * 400, FINISH, event(usage=USAGE), DONE], True),
        ([*[event("word ")] * 400, event("end", usage=USAGE), FINISH, DONE], True),
        ([*[event("word ")] * 400, event(usage=USAGE), NO_TEXT, b": keep-alive\n\n", FINISH, DONE], True),
        ([*GROWING, FINISH, DONE], True),
        (GROWING[:200], True),
        ([event("word ")] * 400, True),
    ],
    ids=[
        "a placeholder, text and the end", "a placeholder, then cut off", "a placeholder and a short text",
        "a placeholder, text and zeros", "a placeholder, text and usage", "usage with the last text",
        "chunks without text after the usage", "usage on every chunk", "usage on every chunk, then cut off", "no usage",
    ],
)  # fmt: skip
@pytest.mark.parametrize("may_end_early", [False, True], ids=["counted", "kept for an early end"])
def test_usage_before_later_text_is_not_final(events, is_final, may_end_early):
    meter = ChatStreamMeter(withhold_usage=True)
    meter.may_end_early = may_end_early
    for part in events:
        meter.feed(part)
    assert meter.usage_is_final is is_final
    meter.text_totals()
    assert meter.usage_is_final is is_final


FINISH_CHOICE = {"index": 0, "delta": {}, "finish_reason": "stop"}
CITED = {"index": 0, "delta": {"annotations": [{"type": "url_citation"}]}, "finish_reason": None}
TEXT_EVENTS = b"".join(event(text, service_tier="flex") for text in TEXTS)


@pytest.mark.parametrize(
    "raw, server_tools",
    [
        (TEXT_EVENTS + event(service_tier="flex", choices=[{**FINISH_CHOICE, "usage": USAGE}]) + DONE, ()),
        (TEXT_EVENTS + event(usage=USAGE) + event(service_tier="flex", usage=dict.fromkeys(USAGE, 0)) + DONE, ()),
        (TEXT_EVENTS + event(service_tier="flex", choices=[FINISH_CHOICE], x_groq={"usage": USAGE}) + DONE, ()),
        (TEXT_EVENTS + event(choices=[CITED]) + event("x") + event(service_tier="flex", usage=USAGE) + DONE, (("web_search", 1),)),
    ],
    ids=["in the choice", "zeros at the end", "in Groq's object", "with a search"],
)  # fmt: skip
@given(cuts=st.lists(st.integers(0, 10_000), max_size=30), withhold=st.booleans())
def test_any_chunking_gives_the_same_usage_wherever_it_is(raw, server_tools, cuts, withhold):
    _, meter = run(raw, cuts, withhold=withhold)
    expected = Usage(input=10, output=4, service_tier="flex", server_tools=server_tools)
    assert openai_compatible.usage_of(meter.answer) == expected


@given(cuts=st.lists(st.integers(0, 10_000), max_size=30))
def test_the_usage_chunk_is_withheld_from_a_caller_who_did_not_request_it(cuts):
    out, stream = run(PLAIN, cuts, withhold=True)
    assert out == PLAIN.replace(event(usage=USAGE), b"")
    assert stream.usage == USAGE


def test_a_chunk_with_text_and_usage_is_not_withheld():
    raw = event("hi", usage=USAGE) + DONE
    assert run(raw, [], withhold=True)[0] == raw


@given(texts=st.lists(st.text(alphabet="abcdefgh ijk", min_size=1, max_size=40), min_size=1, max_size=60))
def test_without_usage_the_text_size_is_estimated_within_ten_percent(texts):
    _, stream = run(b"".join(event(text) for text in texts), [], withhold=True)
    weight, events = stream.text_totals()
    assert events == len(texts)
    assert abs(weight - sum(map(len, texts))) <= 0.1 * sum(map(len, texts)) + 1


@pytest.mark.parametrize(
    "raw, ended",
    [(event("a"), False), (event("a") + FINISH, True), (event("a") + DONE, True), (b"", False)],
    ids=["cut after text", "finish reason only", "done only", "no data"],
)
def test_a_stream_is_complete_only_with_a_finish_reason_or_an_end_mark(raw, ended):
    assert run(raw, [], withhold=True)[1].is_complete is ended


def test_events_after_the_end_mark_are_dropped():
    assert run(event("a") + DONE + event("b"), [], withhold=True)[0] == event("a") + DONE


def test_a_last_event_without_its_blank_line_is_read():
    out, stream = run((event("a") + DONE).rstrip(), [], withhold=True)
    assert out.rstrip() == (event("a") + DONE).rstrip()
    assert stream.done


def test_an_incomplete_event_at_the_end_is_not_forwarded():
    raw = event("a") + b'data: {"choices":[],"usage":{"prompt_to'
    assert run(raw, [], withhold=True)[0] == event("a")


def test_choices_of_another_type_do_not_break_the_stream():
    raw = event("a") + b'data: {"choices":5}\n\n' + b'data: {"choices":{"a":1},"usage":{"x":1}}\n\n' + DONE
    assert run(raw, [], withhold=False)[0] == raw


def test_an_error_event_is_recorded_and_forwarded():
    raw = event("a") + b'data: {"error":{"message":"overloaded"}}\n\n'
    out, stream = run(raw, [], withhold=True)
    assert out == raw
    assert stream.error == {"message": "overloaded"}


def test_a_long_event_is_kept_whole_and_joined_once():
    stream = ChatStreamMeter(withhold_usage=True)
    long_event = event("x" * 9_000_000)
    pieces = [long_event[at : at + 65_536] for at in range(0, len(long_event), 65_536)]
    assert b"".join(stream.feed(piece) for piece in pieces) == long_event


def test_an_event_of_many_lines_is_joined_once():
    stream = ChatStreamMeter(withhold_usage=True)
    pieces = [b"data: \n"] * 50_000
    assert b"".join(stream.feed(piece) for piece in [*pieces, b"\n"]) == b"".join(pieces) + b"\n"


@given(noise=st.binary(max_size=400))
def test_garbage_is_forwarded_and_never_raises(noise):
    out, _ = run(event("a") + noise + b"\n\n" + DONE, [], withhold=True)
    assert out.startswith(event("a"))


def test_a_stream_s_fingerprint_is_recorded_across_chunks():
    meter = ChatStreamMeter(withhold_usage=True)
    meter.fingerprint_chars = FINGERPRINT_CHARS_DEFAULT
    for text in ("I will ", "look ", "at it.") * 4:
        meter.feed(b"data: " + json.dumps({"choices": [{"delta": {"content": text}}]}).encode() + b"\n\n")
    call = {"index": 0, "id": "c9", "function": {"name": "f", "arguments": "{"}}
    assert meter.fingerprint.text.startswith("I will look at it.") and not meter.fingerprint_chars
    call_meter = ChatStreamMeter(withhold_usage=True)
    call_meter.fingerprint_chars = FINGERPRINT_CHARS_DEFAULT
    call_meter.feed(b"data: " + json.dumps({"choices": [{"delta": {"tool_calls": [call]}}]}).encode() + b"\n\n")
    assert call_meter.fingerprint == AnswerFingerprint("", "c9", "f{")


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
    length: dict[str, Any] = {"delta": {}, "logprobs": None, "finish_reason": "length"}
    usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    assert stream_checks.payloads(out)[4:] == [
        {**head, "choices": [{"index": 0, **length}], "usage": None},
        {**head, "choices": [{"index": 2, **length}], "usage": None},
        {**head, "choices": [], "usage": usage},
    ]


@pytest.mark.parametrize(
    "message, size",
    [
        ({"content": "Łódź", "refusal": "no"}, 9),
        ({"reasoning_content": "abc", "reasoning": "de"}, 5),
        (
            {
                "content": None,
                "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}, {"function": {"name": "g"}}],
            },
            4,
        ),
        ({"content": ["parts"], "tool_calls": [7, {"function": "f"}]}, 0),
        ({"tool_calls": "f"}, 0),
        ({}, 0),
    ],
    ids=["answer and refusal", "both names of reasoning", "calls", "other shapes", "calls that are no list", "nothing"],
)
def test_the_text_of_a_message_includes_reasoning_and_calls(message, size):
    assert text_bytes(message) == size
