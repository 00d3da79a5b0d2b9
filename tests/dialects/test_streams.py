"""Every dialect's stream: the same bytes and the same usage however it is cut, native or crossed."""

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
ASKED = {
    "chat": b'{"model":"m","messages":[{"role":"user","content":"x"}],"stream":true,"stream_options":{"include_usage":true}}',
    "messages": b'{"model":"m","max_tokens":5,"stream":true,"messages":[{"role":"user","content":"x"}],"thinking":{"type":"adaptive"}}',
    "responses": b'{"model":"m","input":"x","stream":true,"include":["reasoning.encrypted_content"]}',
    "completions": b'{"model":"m","prompt":"x","stream":true,"stream_options":{"include_usage":true}}',
}
CROSSED = [
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
    places = sorted({0, len(raw), *(cut % (len(raw) + 1) for cut in cuts)})
    return [raw[start:end] for start, end in itertools.pairwise(places)]


def run(dialect: str, raw: bytes, cuts: list[int]) -> tuple[bytes, sse.StreamMeter]:
    meter = DIALECTS[dialect].stream_meter(PARSERS[dialect](ASKED[dialect]))
    out = b"".join(meter.feed(piece) for piece in pieces(raw, cuts))
    return out + meter.finish(), meter


def state(meter: sse.StreamMeter) -> tuple:
    return meter.usage, meter.done, meter.is_complete, meter.error, meter.id


@pytest.mark.parametrize("dialect, name", CASES)
@given(cuts=CUTS)
@settings(max_examples=60, deadline=None)
def test_any_chunking_gives_the_same_bytes_and_the_same_usage(dialect, name, cuts):
    raw = (RECORDED / f"{name}.sse").read_bytes()
    whole, first = run(dialect, raw, [])
    cut, second = run(dialect, raw, cuts)
    assert whole == cut == raw
    assert state(first) == state(second)
    assert first.usage if "error" not in name else first.error


@pytest.mark.parametrize("dialect, name", CASES)
def test_dos_line_ends_make_no_difference(dialect, name):
    raw = (RECORDED / f"{name}.sse").read_bytes()
    dos = raw.replace(b"\n", b"\r\n")
    out, meter = run(dialect, dos, [7, 99, 1000])
    assert out == dos
    assert state(meter) == state(run(dialect, raw, [])[1])


@pytest.mark.parametrize("dialect, name", [case for case in CASES if "error" not in case[1]])
def test_nothing_after_the_end_reaches_the_caller(dialect, name):
    raw = (RECORDED / f"{name}.sse").read_bytes()
    out, meter = run(dialect, raw + b'data: {"usage":{"prompt_tokens":9,"completion_tokens":9}}\n\n', [len(raw)])
    assert out == raw and meter.done


@pytest.mark.parametrize("dialect", STREAMS)
def test_an_event_without_end_is_broken_off_before_memory_is(dialect):
    meter = DIALECTS[dialect].stream_meter(PARSERS[dialect](ASKED[dialect]))
    piece = b"x" * 1_000_000
    with pytest.raises(BrokenResponse, match="does not end"):
        for _ in range(100):
            meter.feed(piece)


def crossed(caller: str, upstream: str, raw: bytes, cuts: list[int]) -> bytes:
    request = PARSERS[caller](ASKED[caller])
    translator = Translator(request)
    translated = translator.translate(upstream, extended=False)
    stream = TranslatedStream(
        translator.answer_translator(translated, upstream, answer_id="a1", created=7), chat=caller == "chat"
    )
    meter = DIALECTS[upstream].stream_meter(request)
    out = b"".join(stream.feed(meter.feed(piece)) for piece in pieces(raw, cuts))
    return out + stream.feed(meter.finish()) + stream.finish()


@pytest.mark.parametrize("caller, upstream, name", CROSSED)
@given(cuts=CUTS)
@settings(max_examples=40, deadline=None)
def test_any_chunking_is_crossed_to_the_same_bytes(caller, upstream, name, cuts):
    raw = (RECORDED / f"{name}.sse").read_bytes()
    assert crossed(caller, upstream, raw, cuts) == crossed(caller, upstream, raw, [])


@pytest.mark.parametrize("caller, upstream, name", [case for case in CROSSED if "error" not in case[2]])
def test_what_was_crossed_is_a_whole_stream_of_the_caller_s_dialect(caller, upstream, name):
    out, meter = run(caller, crossed(caller, upstream, (RECORDED / f"{name}.sse").read_bytes(), []), [])
    assert meter.done and meter.usage, "it ends by its own mark, and says what it took"
    heard = CLIENTS[caller].parse_stream(out)
    assert "Grüße, 世界" in heard.text or [arguments["city"] for _, _, arguments in heard.calls] == ["Łódź", "Oslo"]
