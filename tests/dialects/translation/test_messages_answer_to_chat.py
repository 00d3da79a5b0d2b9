"""Messages answers to chat completions, whole and event by event."""

import json
from typing import Any

import pytest

from tests.dialects.translation.translating import FUNCTION, answer_translator, received

TOOLS = [{"type": "function", "function": FUNCTION}]


ANSWER: dict[str, Any] = {
    "content": [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "text", "text": "Hi"},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
    ],
    "stop_reason": "tool_use",
    "usage": {"input_tokens": 3, "cache_read_input_tokens": 4, "output_tokens": 5},
}


def test_an_answer_keeps_text_thinking_calls_and_usage():
    answer = answer_translator("chat", "messages", tools=TOOLS).translate_document(ANSWER)
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant", "content": "Hi", "refusal": None,
        "tool_calls": [{"id": "t", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}],
        "reasoning_content": "hm", "thinking_blocks": [ANSWER["content"][0]],
    }  # fmt: skip
    assert (answer["id"], answer["object"], answer["model"]) == ("chatcmpl-a", "chat.completion", "m")
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (7, 5)


@pytest.mark.parametrize(
    "reason, expected",
    [
        ("end_turn", "stop"),
        ("max_tokens", "length"),
        ("refusal", "content_filter"),
        ("pause_turn", "stop"),
        ("new", "stop"),
        (None, "stop"),
    ],
)
def test_a_stop_reason_is_translated(reason, expected):
    answer = answer_translator("chat", "messages").translate_document({"content": [], "stop_reason": reason})
    assert answer["choices"][0]["finish_reason"] == expected
    assert answer["choices"][0]["message"]["content"] is None


def chunks_of(events: list[dict[str, Any]], **fields: Any) -> list[dict[str, Any]]:
    translator = answer_translator("chat", "messages", stream=True, **fields)
    return [chunk for event in events for chunk in translator.feed(event)] + translator.end()


def test_blocks_of_a_stream_are_translated_as_they_begin():
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"usage": {"input_tokens": 3}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "Hi"}},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}},
        {"type": "ping"},
    ]  # fmt: skip
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks_of(events, tools=TOOLS)]
    assert deltas[:2] == [{"role": "assistant", "content": ""}, {"content": "Hi"}]
    (call,) = deltas[2]["tool_calls"]
    assert (call["index"], call["id"], call["function"]) == (0, "t", {"name": "f", "arguments": '{"a":1}'})


@pytest.mark.parametrize("include_usage", [True, False])
def test_a_stream_reports_usage_only_if_requested(include_usage):
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"usage": {"input_tokens": 3}}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}},
    ]
    chunks = chunks_of(events, stream_options={"include_usage": include_usage})
    assert [chunk["usage"]["total_tokens"] for chunk in chunks if chunk.get("usage")] == ([8] if include_usage else [])
    assert ("usage" in chunks[0]) is include_usage


def test_such_an_answer_is_not_stored():
    assert answer_translator("chat", "messages").stored_answer() == ("", [])


def stream_of(*blocks: dict[str, Any], reason: str | None = "end_turn") -> list[dict[str, Any]]:
    """A stream of Messages with these blocks: text, or the input of a tool, in two deltas."""
    events: list[dict[str, Any]] = [{"type": "message_start", "message": {"usage": {"input_tokens": 3}}}]
    for index, block in enumerate(blocks):
        empty = {**block, **({"text": ""} if "text" in block else {}), **({"input": {}} if "input" in block else {})}
        events.append({"type": "content_block_start", "index": index, "content_block": empty})
        kind, name = ("text_delta", "text") if "text" in block else ("input_json_delta", "partial_json")
        text = block.get("text") or (json.dumps(block["input"]) if block.get("input") else "")
        for piece in (text[:2], text[2:]):
            if piece:
                events.append({"type": "content_block_delta", "index": index, "delta": {"type": kind, name: piece}})
        events.append({"type": "content_block_stop", "index": index})
    events.append({"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 5}})
    return [*events, {"type": "message_stop"}]


# Types of content blocks (docs.anthropic.com, Messages and Beta Messages, 2026) that no caller asked for.
SERVER_BLOCKS: list[dict[str, Any]] = [
    {"type": "server_tool_use", "id": "srv", "name": "web_search", "input": {"query": "x"}},
    {"type": "web_search_tool_result", "tool_use_id": "srv", "content": []},
    {"type": "web_fetch_tool_result", "tool_use_id": "srv", "content": {}},
    {"type": "code_execution_tool_result", "tool_use_id": "srv", "content": {}},
    {"type": "bash_code_execution_tool_result", "tool_use_id": "srv", "content": {}},
    {"type": "tool_search_tool_result", "tool_use_id": "srv", "content": {}},
    {"type": "mcp_tool_use", "id": "mcp", "name": "x", "server_name": "y", "input": {"a": 1}},
    {"type": "mcp_tool_result", "tool_use_id": "mcp", "content": []},
    {"type": "container_upload", "file_id": "f"},
    {"type": "compaction", "content": "summary"},
    {"type": "next_year", "input": {"a": 1}},
]
CALL = {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("caller", ["chat", "responses"])
@pytest.mark.parametrize("block", SERVER_BLOCKS, ids=lambda block: block["type"])
def test_a_block_of_the_provider_is_named_and_never_part_of_a_call(block, caller, stream):
    blocks: list[dict[str, Any]] = [{"type": "text", "text": "I look."}, CALL, block, {"type": "text", "text": "Done."}]
    answer: Any = stream_of(*blocks) if stream else {"content": blocks, "stop_reason": "tool_use", "usage": USAGE}
    read, lost = received(caller, "messages", answer)
    assert (read.text, [call[1:] for call in read.tool_calls], lost) == (
        "I look.Done.",
        [("f", {"a": 1})],
        [block["type"]],
    )


USAGE = {"input_tokens": 3, "output_tokens": 5}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("caller", ["chat", "responses"])
def test_a_call_without_arguments_has_an_empty_object(caller, stream):
    calls = [{**CALL, "id": "t1", "input": {}}, {**CALL, "id": "t2", "name": "g", "input": {}}]
    answer: Any = stream_of(*calls, reason="tool_use") if stream else {"content": calls, "usage": USAGE}
    read, lost = received(caller, "messages", answer)
    assert (read.tool_calls, lost) == ([("t1", "f", {}), ("t2", "g", {})], [])


def test_calls_without_ids_or_with_one_id_get_their_own():
    for ids in ([None, None], ["x", "x"]):
        calls = [{**CALL, "id": id_} for id_ in ids]
        read, _ = received("chat", "messages", {"content": calls, "usage": USAGE})
        assert len({id_ for id_, _, _ in read.tool_calls}) == 2


def test_an_input_that_comes_whole_and_again_in_deltas_is_taken_once():
    events = stream_of(CALL)
    events[1]["content_block"] = CALL
    read, lost = received("chat", "messages", events)
    assert (read.tool_calls, lost) == ([("t", "f", {"a": 1})], ["input_json_delta"])


@pytest.mark.parametrize(
    "delta, name",
    [
        ({"type": "input_json_delta", "partial_json": "{}"}, "input_json_delta"),
        ({"type": "next_year_delta", "x": 1}, "next_year_delta"),
        ({"type": "citations_delta", "citation": {"type": "page_location"}}, "citations"),
    ],
)
def test_a_delta_without_a_counterpart_is_named(delta, name):
    events = stream_of({"type": "text", "text": "Hi"})
    events.insert(2, {"type": "content_block_delta", "index": 0, "delta": delta})
    read, lost = received("chat", "messages", events)
    assert (read.text, lost) == ("Hi", [name])


@pytest.mark.parametrize(
    "delta, text, thinking",
    [
        ({"type": "text_delta", "text": "Hi"}, "Hi", ""),
        ({"type": "thinking_delta", "thinking": "hm"}, "", "hm"),
    ],
)
def test_deltas_of_a_block_that_was_not_begun_are_read(delta, text, thinking):
    events = [{"type": "content_block_delta", "index": 0, "delta": delta}, {"type": "message_stop"}]
    read, lost = received("chat", "messages", events)
    assert (read.text, read.thinking, lost) == (text, thinking, [])


def test_a_citation_of_a_web_page_is_an_annotation():
    citation = {"type": "web_search_result_location", "url": "https://example.com", "title": "x", "cited_text": "y"}
    block = {"type": "text", "text": "Hi", "citations": [citation]}
    answer = answer_translator("chat", "messages").translate_document({"content": [block]})
    (annotation,) = answer["choices"][0]["message"]["annotations"]
    assert annotation["url_citation"] == {"url": "https://example.com", "title": "x", "start_index": 2, "end_index": 2}


def test_the_explanation_of_a_refusal_is_the_refusal():
    """docs.anthropic.com, handling stop reasons (2026)."""
    details = {"type": "refusal", "category": "cyber", "explanation": "Not this."}
    answer = answer_translator("chat", "messages").translate_document(
        {"content": [], "stop_reason": "refusal", "stop_details": details}
    )
    (choice,) = answer["choices"]
    assert (choice["finish_reason"], choice["message"]["refusal"]) == ("content_filter", "Not this.")


def test_a_finish_reason_is_sent_once_and_last():
    """Some servers report usage in several message_delta events, of which one has the stop reason."""
    events = stream_of({"type": "text", "text": "Hi"})
    events.insert(2, {"type": "message_delta", "delta": {"stop_reason": None}, "usage": {"output_tokens": 1}})
    events.insert(-1, {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}})
    chunks = chunks_of(events)
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert (reasons.count("stop"), reasons[-1]) == (1, "stop")


def test_a_stream_without_a_stop_reason_has_one():
    assert chunks_of(stream_of(CALL, reason=None))[-1]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("caller", ["chat", "responses"])
def test_characters_split_between_deltas_reach_the_caller(caller):
    for kind, name in (("text", "text"), ("thinking", "thinking")):
        deltas = [{"type": f"{kind}_delta", name: piece} for piece in ("x\ud83d", "\ude00y")]
        events: list[dict[str, Any]] = [{"type": "message_start", "message": {"usage": USAGE}}]
        events.append({"type": "content_block_start", "index": 0, "content_block": {"type": kind, name: ""}})
        events += [{"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas]
        read, lost = received(caller, "messages", [*events, {"type": "message_stop"}])
        assert (read.text or read.thinking, lost) == ("x😀y", [])


def test_content_that_is_a_plain_text_is_text():
    read, lost = received("chat", "messages", {"content": "Hi", "usage": USAGE})
    assert (read.text, lost) == ("Hi", [])
