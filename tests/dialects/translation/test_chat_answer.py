"""The shapes in which compatible servers return text, reasoning, refusals, images and citations."""

from typing import Any

import pytest

from gateway.dialects.messages import UNSIGNED_SIGNATURE_PREFIX
from tests.dialects.translation.translating import USAGE, answer_translator, chat_answer, chat_chunks, received

TEXT_PART = {"type": "text", "text": "4"}
# (message or delta, text, reasoning)
SHAPES: dict[str, tuple[dict[str, Any], str, str]] = {
    "a string": ({"content": "4"}, "4", ""),
    "a list of parts": ({"content": [TEXT_PART, {"type": "text", "text": "2"}]}, "42", ""),
    "a part alone": ({"content": TEXT_PART}, "4", ""),
    "strings in a list": ({"content": ["4", "2"]}, "42", ""),
    "output text": ({"content": [{"type": "output_text", "text": "4"}]}, "4", ""),
    # Mistral, reasoning (docs.mistral.ai, capabilities/reasoning, 2026).
    "thinking as a list of texts": (
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, TEXT_PART]}, "4", "hm",
    ),
    "thinking as a text": ({"content": [{"type": "thinking", "thinking": "hm"}, TEXT_PART]}, "4", "hm"),
    # Databricks, query reasoning models (docs.databricks.com, 2026).
    "reasoning with a summary": (
        {"content": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}, TEXT_PART]}, "4", "hm",
    ),
    "reasoning as a part with text": ({"content": [{"type": "reasoning", "text": "hm"}, TEXT_PART]}, "4", "hm"),
    "reasoning_content": ({"reasoning_content": "hm", "content": "4"}, "4", "hm"),
    "reasoning": ({"reasoning": "hm", "content": "4"}, "4", "hm"),
    "both names, repeating each other": ({"reasoning": "hm", "reasoning_content": "hm", "content": "4"}, "4", "hm"),
    # GitHub Copilot's name.
    "reasoning_text": ({"reasoning_text": "hm", "content": "4"}, "4", "hm"),
    # OpenRouter, reasoning tokens (openrouter.ai/docs, 2026).
    "reasoning_details alone": (
        {"content": "4", "reasoning_details": [{"type": "reasoning.text", "text": "h"}, {"type": "reasoning.summary", "summary": "m"}]},
        "4", "hm",
    ),
    "reasoning_details beside reasoning": (
        {"content": "4", "reasoning": "hm", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]}, "4", "hm",
    ),
    # litellm's extension.
    "thinking blocks alone": ({"content": "4", "thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "s"}]}, "4", "hm"),
    "a refusal": ({"content": None, "refusal": "No."}, "No.", ""),
    "a refusal as a part": ({"content": [{"type": "refusal", "refusal": "No."}]}, "No.", ""),
    "an empty text": ({"content": ""}, "", ""),
    "no content": ({"content": None}, "", ""),
    # Snowflake Cortex sends every field (recorded in pydantic-ai, 2026-07).
    "every field of the protocol, empty": (
        {
            "content": "4", "refusal": "", "annotations": None, "tool_calls": None, "function_call": {"name": "", "arguments": ""},
            "audio": {"id": "", "data": "", "expires_at": 0, "transcript": ""},
        },
        "4", "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("caller", ["messages", "responses"])
@pytest.mark.parametrize("name", SHAPES)
def test_text_and_reasoning_of_every_shape_reach_the_caller(caller, name, stream):
    message, text, reasoning = SHAPES[name]
    answer, lost = received(caller, "chat", chat_chunks(message) if stream else chat_answer(message))
    assert (answer.text, answer.thinking, lost) == (text, reasoning, [])


MISTRAL_DELTAS: list[dict[str, Any]] = [
    {"role": "assistant", "content": ""},
    {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "basic "}]}]},
    {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "arithmetic"}], "closed": True}]},
    {"content": [{"type": "text", "text": "2 + 2"}]},
    {"content": " = 4"},
]


@pytest.mark.parametrize("caller", ["messages", "responses"])
def test_a_stream_of_parts_and_strings_is_one_text(caller):
    answer, lost = received(caller, "chat", chat_chunks(*MISTRAL_DELTAS))
    assert (answer.text, answer.thinking, lost) == ("2 + 2 = 4", "basic arithmetic", [])


@pytest.mark.parametrize(
    "message, name",
    [
        ({"content": [{"type": "input_audio", "input_audio": {}}]}, "content.input_audio"),
        ({"content": [{"type": "reference", "reference_ids": [1]}]}, "content.reference"),
        ({"content": [{"type": "next_year", "x": 1}]}, "content.next_year"),
        ({"content": [7]}, "content.invalid"),
        ({"content": 7}, "content.invalid"),
        ({"content": [{"type": "text", "text": 7}]}, "content.text"),
        ({"content": [{"type": "thinking", "thinking": [{"type": "tool_reference"}]}]}, "content.thinking"),
        ({"reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]}, "reasoning_details.reasoning.encrypted"),
        ({"thinking_blocks": [7]}, "thinking_blocks"),
        ({"audio": {"data": "AAAA", "transcript": "Hi"}}, "message.audio"),
        ({"context": {"citations": [{"url": "x"}]}}, "message.context"),
        ({"extra_content": {"google": {"thought_signature": "s"}}}, "message.extra_content"),
        ({"annotations": [7]}, "message.annotations"),
        ({"tool_calls": [7]}, "tool_calls"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("caller", ["messages", "responses"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_what_has_no_counterpart_is_named(caller, stream, message, name):
    message = {"content": "Hi", **message}
    answer, lost = received(caller, "chat", chat_chunks(message) if stream else chat_answer(message))
    assert (answer.text, lost) == ("Hi" if message["content"] == "Hi" else "", [name])


@pytest.mark.parametrize("caller", ["messages", "responses"])
def test_sources_beside_the_answer_are_named(caller):
    """Perplexity's (docs.perplexity.ai, chat completions, 2026)."""
    answer, lost = received(caller, "chat", chat_answer({"content": "Hi"}, citations=["https://example.com"]))
    assert (answer.text, lost) == ("Hi", ["citations"])


@pytest.mark.parametrize("caller", ["messages", "responses"])
def test_a_second_choice_is_named(caller):
    chunks = chat_chunks({"content": "a"}, {"content": "b"})
    chunks[1]["choices"][0]["index"] = 1
    answer, lost = received(caller, "chat", chunks)
    assert (answer.text, lost) == ("a", ["choices"])


USAGE_CHUNK = {"id": "c", "choices": [], "usage": USAGE}


def choices_of(*choices: tuple[dict[str, Any], str], stream: bool) -> Any:
    """An answer of several choices, each a message and its finish reason: whole, or a stream that has one after another."""
    if not stream:
        listed = [{"index": i, "message": message, "finish_reason": why} for i, (message, why) in enumerate(choices)]
        return {"id": "c", "choices": listed, "usage": USAGE}
    chunks = [chunk for message, why in choices for chunk in chat_chunks(message, reason=why)[:-1]]
    for position, chunk in enumerate(chunks):
        chunk["choices"][0]["index"] = position // 2
    return [*chunks, USAGE_CHUNK]


def call_of(name: str, id_: str) -> dict[str, Any]:
    function = {"name": name, "arguments": '{"x":1}'}
    return {"content": None, "tool_calls": [{"index": 0, "id": id_, "type": "function", "function": function}]}


TEXT, OTHER_TEXT, F, G = {"content": "Hi"}, {"content": "Ho"}, call_of("f", "a"), call_of("g", "b")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("caller", ["messages", "responses"])
@pytest.mark.parametrize(
    "choices, text, thinking, tools, reason, lost",
    [
        ([(TEXT, "stop"), (F, "tool_calls")], "Hi", "", ["f"], "tool_use", []),
        ([(F, "tool_calls"), (TEXT, "stop")], "Hi", "", ["f"], "tool_use", []),
        ([(F, "tool_calls"), (G, "tool_calls")], "", "", ["f", "g"], "tool_use", []),
        ([({"content": ""}, "stop"), (TEXT, "length")], "Hi", "", [], "max_tokens", []),
        ([({"reasoning": "hm"}, "stop"), (TEXT, "stop")], "Hi", "hm", [], "end_turn", []),
        ([(TEXT, "stop"), (OTHER_TEXT, "length")], "Hi", "", [], "end_turn", ["choices"]),
        ([(TEXT, "stop"), ({**F, "content": "Ho"}, "tool_calls")], "Hi", "", ["f"], "tool_use", ["choices"]),
        ([(TEXT, "stop"), ({"role": "assistant", "content": ""}, "stop")], "Hi", "", [], "end_turn", []),
    ],
    ids=[
        "text and a call", "a call and text", "two calls", "text in the second alone", "reasoning and text",
        "two texts", "two texts and a call", "an empty second choice",
    ],
)  # fmt: skip
def test_choices_that_split_one_answer_are_read_as_one(caller, stream, choices, text, thinking, tools, reason, lost):
    answer, names = received(caller, "chat", choices_of(*choices, stream=stream))
    assert (answer.text, answer.thinking, names) == (text, thinking, lost)
    assert [(name, arguments) for _, name, arguments in answer.tool_calls] == [(tool, {"x": 1}) for tool in tools]
    if caller == "messages":
        assert answer.finish_reason == reason


def test_a_second_text_is_a_loss_of_text():
    translator = answer_translator("messages", "chat")
    translator.translate_document(choices_of((TEXT, "stop"), (OTHER_TEXT, "stop"), stream=False))
    assert translator.losses() == (("text", "choices"),)


@pytest.mark.parametrize("caller", ["messages", "responses"])
def test_calls_of_two_choices_that_interleave_are_told_apart(caller):
    def piece(index: int, **function: str) -> dict[str, Any]:
        return {"choices": [{"index": index, "delta": {"tool_calls": [{"index": 0, "function": function}]}}]}

    begins = [piece(0, name="f", arguments='{"x"'), piece(1, name="g", arguments='{"y"')]
    answer, lost = received(
        caller, "chat", [*begins, piece(0, arguments=":1}"), piece(1, arguments=":2}"), USAGE_CHUNK]
    )
    assert [call[1:] for call in answer.tool_calls] == [("f", {"x": 1}), ("g", {"y": 2})]
    assert lost == []


@pytest.mark.parametrize("caller", ["messages", "responses"])
@pytest.mark.parametrize(
    "choices, text",
    [
        ([{"message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}], "Hello"),
        ([{"text": "Hel"}, {"text": "lo", "finish_reason": "stop"}], "Hello"),
        ([{"delta": {}, "message": {"content": "Hello"}}], "Hello"),
        ([{"delta": {"role": "assistant", "content": ""}}, {"message": {"content": "Hello"}}], "Hello"),
        ([{"delta": {"content": "Hello"}}, {"delta": {}, "message": {"content": "Hello"}}], "Hello"),
        ([{"delta": {"content": "Hello"}, "text": "Hello"}], "Hello"),
        ([{"index": 0, "delta": {"content": "Hel"}}, {"index": None, "delta": {"content": "lo"}}], "Hello"),
        ([{"index": None, "delta": {"content": "Hel"}}, {"delta": {"content": "lo"}}], "Hello"),
        ([{"index": 3, "delta": {"content": "Hel"}}, {"index": 3, "delta": {"content": "lo"}}], "Hello"),
    ],
    ids=[
        "a message", "texts", "a message beside an empty delta", "a message after a role", "a message after deltas",
        "a text beside a delta", "index null after 0", "index null, then none", "index 3",
    ],
)  # fmt: skip
def test_chunks_with_odd_choices_are_read(caller, choices, text):
    answer, lost = received(caller, "chat", [*({"id": "c", "choices": [choice]} for choice in choices), USAGE_CHUNK])
    assert (answer.text, lost) == (text, [])


def test_reasoning_that_was_not_requested_is_named():
    answer, lost = received("messages", "chat", chat_answer({"content": "4", "reasoning": "hm"}), thinking=None)
    assert (answer.text, answer.thinking, lost) == ("4", "", ["reasoning (thinking was not requested)"])


def test_a_refusal_has_its_own_part_and_stop_reason():
    for answer in (chat_answer({"refusal": "No."}), chat_chunks({"refusal": "N"}, {"refusal": "o."})):
        assert received("messages", "chat", answer)[0].finish_reason == "refusal"
    response = answer_translator("responses", "chat").translate_document(chat_answer({"refusal": "No."}))
    assert response["output"][0]["content"] == [{"type": "refusal", "refusal": "No."}]


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


@pytest.mark.parametrize(
    "message", [{"content": "Hi", "images": [IMAGE]}, {"content": [{"type": "text", "text": "Hi"}, IMAGE]}]
)
def test_an_image_is_that_of_an_image_tool_or_named(message):
    """OpenRouter's images (openrouter.ai/docs, image generation, 2026)."""
    response = answer_translator("responses", "chat").translate_document(chat_answer(message))
    assert [item["type"] for item in response["output"]] == ["message", "image_generation_call"]
    assert (response["output"][1]["result"], response["output"][1]["status"]) == ("AAAA", "completed")
    (lost,) = received("messages", "chat", chat_answer(message))[1]
    assert lost in ("message.images", "content.image_url")


def test_an_image_by_url_is_named():
    image = {"type": "image_url", "image_url": {"url": "https://example.com/x.png"}}
    assert received("responses", "chat", chat_answer({"content": "Hi", "images": [image]}))[1] == [
        "message.images (by URL)"
    ]


CITATION = {
    "type": "url_citation",
    "url_citation": {"url": "https://example.com", "title": "x", "start_index": 0, "end_index": 2},
}
FLAT_CITATION = {"type": "url_citation", "url": "https://example.com", "title": "x", "start_index": 0, "end_index": 2}


@pytest.mark.parametrize(
    "deltas",
    [
        [{"content": "Hi", "annotations": [CITATION]}],
        [{"content": "Hi"}, {"annotations": [CITATION]}],
        [{"annotations": [CITATION]}, {"content": "Hi"}],
        [{"content": "Hi", "annotations": [FLAT_CITATION]}],
    ],
    ids=["with the text", "after it", "before it", "without an inner object"],
)
def test_a_citation_is_an_annotation_of_the_text(deltas):
    translator = answer_translator("responses", "chat", stream=True)
    events = [event for chunk in chat_chunks(*deltas) for event in translator.feed(chunk)] + translator.end()
    assert events[-1]["response"]["output"][0]["content"][0]["annotations"] == [FLAT_CITATION]
    added = [event for event in events if event["type"] == "response.output_text.annotation.added"]
    assert [(event["annotation_index"], event["annotation"]) for event in added] == [(0, FLAT_CITATION)]
    assert translator.losses() == ()
    assert received("messages", "chat", chat_chunks(*deltas))[1] == ["message.annotations"]


def test_a_citation_without_text_is_named():
    assert received("responses", "chat", chat_answer({"annotations": [CITATION]}))[1] == ["message.annotations"]


BLOCKS = [
    {"type": "thinking", "thinking": "one", "signature": "s1"},
    {"type": "redacted_thinking", "data": "x"},
    {"type": "thinking", "thinking": "two", "signature": "s2"},
]


@pytest.mark.parametrize(
    "deltas",
    [
        [{"thinking_blocks": BLOCKS}],
        [{"reasoning_content": "one", "thinking_blocks": BLOCKS[:1]}, {"thinking_blocks": BLOCKS[1:]}],
        [
            {"thinking_blocks": [{"type": "thinking", "thinking": "o"}]},
            {"thinking_blocks": [{"type": "thinking", "thinking": "on"}]},
            {"thinking_blocks": [{"type": "thinking", "thinking": "e"}]},
            {"thinking_blocks": [{"type": "thinking", "thinking": "", "signature": "s1"}]},
            {"thinking_blocks": BLOCKS[1:2]},
            {"reasoning_content": "two", "thinking_blocks": [{"type": "thinking", "thinking": "two"}]},
            {"thinking_blocks": BLOCKS[2:]},
        ],
    ],
    ids=["whole", "with reasoning_content", "in pieces, growing or not"],
)
def test_signed_thinking_keeps_its_blocks(deltas):
    events = [{"content": "4"}]
    thinking = {"type": "adaptive"}
    translator = answer_translator("messages", "chat", stream=True, thinking=thinking)
    out = [event for chunk in chat_chunks(*deltas, *events) for event in translator.feed(chunk)] + translator.end()
    starts = [event["content_block"]["type"] for event in out if event["type"] == "content_block_start"]
    assert starts == ["thinking", "redacted_thinking", "thinking", "text"]
    signatures = [event["delta"]["signature"] for event in out if event.get("delta", {}).get("signature")]
    assert signatures == ["s1", "s2"]
    assert received("messages", "chat", chat_chunks(*deltas, *events))[0].thinking == "onetwo"


def test_thinking_without_a_signature_is_signed_by_the_gateway():
    answer, _ = received("messages", "chat", chat_chunks(*MISTRAL_DELTAS))
    assert answer.history_messages[0]["content"][0]["signature"] == UNSIGNED_SIGNATURE_PREFIX


@pytest.mark.parametrize("caller", ["messages", "responses"])
@pytest.mark.parametrize(
    "deltas, text",
    [
        (["x\ud83d", "\ude00y"], "x😀y"),
        (["x\udcf0\udc9f", "\udc98\udc80y"], "x😀y"),
        (["x\ud83d", "y"], "x�y"),
        (["x\ud83d"], "x�"),
    ],
    ids=["a pair in two deltas", "bytes in two deltas", "a lone half", "a lone half at the end"],
)
def test_characters_split_between_deltas_reach_the_caller(caller, deltas, text):
    for name in ("content", "reasoning_content"):
        answer, lost = received(caller, "chat", chat_chunks(*({name: piece} for piece in deltas)))
        assert (answer.text or answer.thinking, lost) == (text, [])
    pieces = ['{"a": "', *deltas, '"}']
    calls = [
        {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": piece}}]} for piece in pieces
    ]
    answer, lost = received(caller, "chat", chat_chunks(*calls))
    assert (answer.tool_calls[0][2], lost) == ({"a": text}, [])


@pytest.mark.parametrize(
    "reason, messages_reason, status",
    [
        ("stop", "end_turn", "completed"),
        ("STOP", "end_turn", "completed"),
        ("eos", "end_turn", "completed"),
        ("length", "max_tokens", "incomplete"),
        ("MAX_TOKENS", "max_tokens", "incomplete"),
        ("model_length", "max_tokens", "incomplete"),
        ("SAFETY", "refusal", "incomplete"),
    ],
)
def test_a_finish_reason_of_another_api_is_understood(reason, messages_reason, status):
    answer = chat_answer({"content": "Hi"}, reason)
    assert received("messages", "chat", answer)[0].finish_reason == messages_reason
    assert received("responses", "chat", answer)[0].finish_reason == status
