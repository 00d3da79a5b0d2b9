"""What is collected of a streamed answer reads like a whole one; events in the order of recorded streams."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.providers import anthropic, openai_compatible
from gateway.providers.streamed_answer import collect_chunk, collect_event
from gateway.values.usage import NO_USAGE, Usage
from tests.dialects.json_values import JSON_VALUES

USAGE = {"prompt_tokens": 5000, "completion_tokens": 700, "total_tokens": 5700}


def chunk(usage: Any = None, *, in_choice: Any = None, index: int = 0, **delta: Any) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "finish_reason": None}
    return {"id": "c", "choices": [{**choice, "usage": in_choice} if in_choice else choice], "usage": usage}


def chat_usage(*chunks: dict[str, Any]) -> Usage | None:
    answer: dict[str, Any] = {}
    for part in chunks:
        collect_chunk(answer, part)
    return openai_compatible.usage_of(answer)


def messages_usage(*events: dict[str, Any]) -> Usage | None:
    answer: dict[str, Any] = {}
    for event in events:
        collect_event(answer, event)
    return anthropic.usage_of(answer)


@pytest.mark.parametrize(
    "chunks",
    [
        [chunk(content="a"), chunk(USAGE)],
        [chunk(content="a"), {"choices": [], "usage": USAGE}],
        [chunk(content="a"), chunk(in_choice=USAGE)],
        [chunk(USAGE), {"choices": [], "usage": dict.fromkeys(USAGE, 0)}],
        [chunk(in_choice=USAGE), {"choices": [], "usage": dict.fromkeys(USAGE, 0)}],
        [{**chunk(content="a"), "x_groq": {"id": "r"}}, {**chunk(), "x_groq": {"id": "r", "usage": USAGE}}],
        [chunk({**USAGE, "completion_tokens": n, "total_tokens": 5000 + n}, content="a") for n in (1, 350, 700)],
        [chunk({"prompt_tokens": 5000, "completion_tokens": 0, "total_tokens": 5000}), chunk(USAGE), chunk({})],
    ],
    ids=[
        "on the finish chunk", "in the chunk without choices", "in the choice that ended", "zeros at the end",
        "zeros after a choice's", "in x_groq", "growing on every chunk", "a placeholder before and after",
    ],
)  # fmt: skip
def test_usage_of_a_chat_stream_is_found_and_kept(chunks):
    assert chat_usage(*chunks) == Usage(input=5000, output=700)


def test_choices_that_end_with_their_own_usage_are_added_up():
    second = {**USAGE, "completion_tokens": 300, "total_tokens": 5300}
    assert chat_usage(chunk(in_choice=USAGE), chunk(in_choice=second, index=1)) == Usage(input=5000, output=1000)


def test_the_service_tier_and_searches_of_a_chat_stream_are_kept():
    citation = {"type": "url_citation", "url_citation": {"url": "https://example.com"}}
    usage = chat_usage(
        {**chunk(content="a"), "service_tier": "auto"},
        chunk(annotations=[{"type": "file_citation"}, citation]),
        chunk(annotations=[citation]),
        {"choices": [], "usage": USAGE, "service_tier": "flex"},
    )
    assert usage == Usage(input=5000, output=700, service_tier="flex", server_tools=(("web_search", 1),))


def test_a_tool_that_a_stream_lists_twice_ran_once():
    begun, ended = {"index": 0, "type": "search"}, {"index": 0, "type": "search", "output": "x"}
    usage = chat_usage(chunk(executed_tools=[begun]), chunk(executed_tools=[ended]), chunk(USAGE))
    assert usage is not None and usage.server_tools == (("web_search", 1),)


START = {"type": "message_start", "message": {"usage": {"input_tokens": 5000, "output_tokens": 1, "speed": "fast"}}}


def delta(reason: str = "end_turn", **usage: Any) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage}


@pytest.mark.parametrize(
    "events, expected",
    [
        ([delta(output_tokens=20)], Usage(input=5000, output=20, service_tier="fast")),
        ([delta(output_tokens=0)], Usage(input=5000, output=0, service_tier="fast")),
        ([delta(output_tokens=20), delta(output_tokens=0)], Usage(input=5000, output=20, service_tier="fast")),
        ([delta()], Usage(input=5000, output=1, service_tier="fast", exact=False)),
        ([delta(output_tokens=None)], Usage(input=5000, output=1, service_tier="fast", exact=False)),
        ([{"type": "message_delta"}], Usage(input=5000, output=1, service_tier="fast", exact=False)),
        ([], Usage(input=5000, output=1, service_tier="fast", exact=False)),
        ([delta(input_tokens=6000, output_tokens=2)], Usage(input=6000, output=2, service_tier="fast")),
        ([delta(input_tokens=0, output_tokens=2)], Usage(input=5000, output=2, service_tier="fast")),
        ([delta(output_tokens=5, reason="refusal")], NO_USAGE),
        (
            [{"type": "content_block_start"}, delta(output_tokens=5, reason="refusal")],
            Usage(input=5000, output=5, service_tier="fast"),
        ),
    ],
    ids=[
        "reported at the end", "an output of nothing", "zero after a figure", "no output count", "null", "no usage", "cut off",
        "a larger input at the end", "an input of zero at the end", "refused before any output", "refused amidst it",
    ],
)  # fmt: skip
def test_the_opening_output_count_of_messages_is_a_placeholder(events, expected):
    assert messages_usage(START, *events) == expected


@given(parts=st.lists(JSON_VALUES, max_size=6))
def test_chunks_of_any_shape_are_collected(parts):
    answer: dict[str, Any] = {}
    for part in parts:
        for payload in (part, {"usage": part}, {"choices": [{"usage": part, "delta": part}]}, {"choices": part}):
            if isinstance(payload, dict):
                collect_chunk(answer, payload)
        for kind in ("message_start", "message_delta"):
            collect_event(answer, {"type": kind, "message": part, "delta": part, "usage": part})
            collect_event(answer, {"type": kind, "message": {"usage": part}, "usage": {"output_tokens": part}})
    openai_compatible.usage_of(answer)
    anthropic.usage_of(answer)
