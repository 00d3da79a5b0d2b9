"""Recorded sessions as calls with their true usage, and what a replay of them counts."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson

from gateway.simulator.playbook import JSON_HEADERS, SSE_HEADERS, UpstreamAnswer
from gateway.values.usage import Usage


@dataclass(slots=True, kw_only=True)
class SessionRun:
    """One session to replay.

    calls: (body, true usage, answer) of each call
    cost_nusd: true cost of all calls
    """

    name: str
    stream: bool
    calls: list[tuple[bytes, Usage, str]]
    cost_nusd: int


@dataclass(slots=True)
class HoldOutcomes:
    """Counts over the sessions under one kind of hold.

    by_source: (sessions, refused) by file
    """

    sessions: int = 0
    refused: int = 0
    refused_at_first_call: int = 0
    calls: int = 0
    answers_shortened: int = 0
    budgets_overspent: int = 0
    worst_excess_nusd: int = 0
    overspent_beyond_bound: int = 0
    by_source: dict[str, list[int]] = field(default_factory=dict)


def upstream_answer(usage: Usage, text: str, *, stream: bool) -> UpstreamAnswer:
    """The provider's answer to a call, whole or streamed."""
    usage_object = {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "prompt_tokens_details": {"cached_tokens": usage.cached_input},
    }
    if not stream:
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        return UpstreamAnswer(
            headers=JSON_HEADERS, body=(orjson.dumps({"id": "x", "choices": [choice], "usage": usage_object}),)
        )
    return UpstreamAnswer(headers=SSE_HEADERS, body=tuple(_stream_chunks(text, usage_object, usage.output)))


def _stream_chunks(text: str, usage_object: dict[str, Any], tokens: int) -> Iterable[bytes]:
    """About one event per token, eight events per chunk."""
    width, events = max(1, len(text) // max(1, tokens)), []
    for start in range(0, len(text), width):
        choice = {"index": 0, "delta": {"content": text[start : start + width]}, "finish_reason": None}
        events.append(b"data: " + orjson.dumps({"id": "x", "choices": [choice]}) + b"\n\n")
        if len(events) == 8:
            yield b"".join(events)
            events = []
    last = {"id": "x", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    events.append(b"data: " + orjson.dumps(last) + b"\n\n")
    events.append(b"data: " + orjson.dumps({"id": "x", "choices": [], "usage": usage_object}) + b"\n\ndata: [DONE]\n\n")
    yield b"".join(events)
