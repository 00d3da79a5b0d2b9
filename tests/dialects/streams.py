"""Recorded and synthetic streams by dialect, fed to meters whole, in pieces, or ended early."""

import itertools
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from gateway.dialects import DIALECTS, PARSERS, sse
from tests.dialects import stream_checks
from tests.dialects.synthetic_streams import SYNTHETIC_STREAMS

RECORDED = Path(__file__).parent / "recorded"


STREAMS = {
    "chat": ("chat_text", "chat_tools"),
    "messages": ("messages_text", "messages_thinking_tools", "messages_error"),
    "responses": ("responses_text", "responses_reasoning_tools"),
    "completions": ("completions_text",),
}


STREAM_REQUESTS = {
    "chat": b'{"model":"m","messages":[{"role":"user","content":"x"}],"stream":true,"stream_options":{"include_usage":true}}',
    "messages": b'{"model":"m","max_tokens":5,"stream":true,"messages":[{"role":"user","content":"x"}],"thinking":{"type":"adaptive"}}',
    "responses": b'{"model":"m","input":"x","stream":true,"include":["reasoning.encrypted_content"]}',
    "completions": b'{"model":"m","prompt":"x","stream":true,"stream_options":{"include_usage":true}}',
}


CUTS = st.lists(st.integers(0, 20_000), max_size=30)


def pieces(raw: bytes, cuts: list[int]) -> list[bytes]:
    positions = sorted({0, len(raw), *(cut % (len(raw) + 1) for cut in cuts)})
    return [raw[start:end] for start, end in itertools.pairwise(positions)]


def run(dialect: str, raw: bytes, cuts: list[int]) -> tuple[bytes, sse.StreamMeter]:
    meter = DIALECTS[dialect].stream_meter(PARSERS[dialect](STREAM_REQUESTS[dialect]))
    out = b"".join(meter.feed(piece) for piece in pieces(raw, cuts))
    return out + meter.finish(), meter


def state(meter: sse.StreamMeter) -> tuple[Any, ...]:
    return meter.answer, meter.done, meter.is_complete, meter.error, meter.id


INPUT_TOKENS, OUTPUT_TOKENS = 11, 7


REASONS = {"chat": "length", "completions": "length", "messages": "max_tokens", "responses": "max_output_tokens"}


RAW = {
    name: (RECORDED / f"{name}.sse").read_bytes() for names in STREAMS.values() for name in names
} | SYNTHETIC_STREAMS


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


def check_stream(dialect: str, raw: bytes) -> set[str]:
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


COMPLETE_CASES = [(dialect, name) for dialect, names in STREAMS.items() for name in names if "error" not in name]
