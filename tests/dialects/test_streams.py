"""Streams of every dialect, native and translated: chunking changes neither bytes nor usage."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects import DIALECTS, PARSERS, sse
from gateway.dialects.translation import TranslatedStream, Translator
from gateway.values.errors import BrokenResponse
from tests.dialects.translation.dialect_clients import CLIENTS

RECORDED = Path(__file__).parent / "recorded"
STREAMS = {
    "chat": ("chat_text", "chat_tools"),
    "messages": ("messages_text", "messages_thinking_tools", "messages_error"),
    "responses": ("responses_text", "responses_reasoning_tools"),
    "completions": ("completions_text",),
}
CASES = [(dialect, name) for dialect, names in STREAMS.items() for name in names]
STREAM_REQUESTS = {
    "chat": b'{"model":"m","messages":[{"role":"user","content":"x"}],"stream":true,"stream_options":{"include_usage":true}}',
    "messages": b'{"model":"m","max_tokens":5,"stream":true,"messages":[{"role":"user","content":"x"}],"thinking":{"type":"adaptive"}}',
    "responses": b'{"model":"m","input":"x","stream":true,"include":["reasoning.encrypted_content"]}',
    "completions": b'{"model":"m","prompt":"x","stream":true,"stream_options":{"include_usage":true}}',
}
TRANSLATED_CASES = [
    (caller, upstream, name)
    for caller, upstream in (
        ("messages", "chat"),
        ("responses", "chat"),
        ("chat", "messages"),
        ("responses", "messages"),
    )
    for name in STREAMS[upstream]
]
CUTS = st.lists(st.integers(0, 20_000), max_size=30)


def pieces(raw: bytes, cuts: list[int]) -> list[bytes]:
    positions = sorted({0, len(raw), *(cut % (len(raw) + 1) for cut in cuts)})
    return [raw[start:end] for start, end in itertools.pairwise(positions)]


def run(dialect: str, raw: bytes, cuts: list[int]) -> tuple[bytes, sse.StreamMeter]:
    meter = DIALECTS[dialect].stream_meter(PARSERS[dialect](STREAM_REQUESTS[dialect]))
    out = b"".join(meter.feed(piece) for piece in pieces(raw, cuts))
    return out + meter.finish(), meter


def state(meter: sse.StreamMeter) -> tuple:
    return meter.usage, meter.done, meter.is_complete, meter.error, meter.id


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


@pytest.mark.parametrize("dialect", STREAMS)
def test_an_event_over_the_size_limit_is_rejected(dialect):
    meter = DIALECTS[dialect].stream_meter(PARSERS[dialect](STREAM_REQUESTS[dialect]))
    piece = b"x" * 1_000_000
    with pytest.raises(BrokenResponse, match="an event of more than"):
        for _ in range(100):
            meter.feed(piece)


def translate_stream(caller: str, upstream: str, raw: bytes, cuts: list[int]) -> bytes:
    request = PARSERS[caller](STREAM_REQUESTS[caller])
    translator = Translator(request)
    translated = translator.translate(upstream, extended=False)
    stream = TranslatedStream(
        translator.answer_translator(translated, upstream, answer_id="a1", created=7), chat=caller == "chat"
    )
    meter = DIALECTS[upstream].stream_meter(request)
    out = b"".join(stream.feed(meter.feed(piece)) for piece in pieces(raw, cuts))
    return out + stream.feed(meter.finish()) + stream.finish()


@pytest.mark.parametrize("caller, upstream, name", TRANSLATED_CASES)
@given(cuts=CUTS)
@settings(max_examples=40, deadline=None)
def test_any_chunking_is_translated_to_the_same_bytes(caller, upstream, name, cuts):
    raw = (RECORDED / f"{name}.sse").read_bytes()
    assert translate_stream(caller, upstream, raw, cuts) == translate_stream(caller, upstream, raw, [])


@pytest.mark.parametrize("caller, upstream, name", [case for case in TRANSLATED_CASES if "error" not in case[2]])
def test_a_translated_stream_is_complete_in_the_caller_s_dialect(caller, upstream, name):
    raw = (RECORDED / f"{name}.sse").read_bytes()
    out, meter = run(caller, translate_stream(caller, upstream, raw, []), [])
    assert meter.done and meter.usage, "it has the end mark and usage"
    answer = CLIENTS[caller].parse_stream(out)
    cities = [arguments["city"] for _, _, arguments in answer.tool_calls]
    assert "Grüße, 世界" in answer.text or cities == ["Łódź", "Oslo"]
