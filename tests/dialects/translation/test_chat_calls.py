"""Which deltas of a stream belong to one call, by all the ways in which servers say it."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.translation.chat_calls import ChatCall
from tests.dialects.translation.translating import chat_answer, chat_chunks, received


def entry(index: Any = "absent", id: Any = "absent", name: Any = "absent", arguments: Any = "absent") -> dict[str, Any]:
    """An entry of `tool_calls` with the fields that are given."""
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value != "absent"}
    fields = {"index": index, "id": id, "function": function or "absent"}
    return {"type": "function", **{key: value for key, value in fields.items() if value != "absent"}}


F, G = ("f", {"x": 1}), ("g", {"y": 2})
STREAMS: dict[str, tuple[list[list[dict[str, Any]]], list[tuple[str, dict[str, Any]]]]] = {
    "each at its index": (
        [[entry(0, "a", "f", "")], [entry(0, arguments='{"x"')], [entry(0, arguments=":1}")], [entry(1, "b", "g", '{"y":2}')]],
        [F, G],
    ),
    # Ollama, ollama/ollama#15457 (2026); LMDeploy, InternLM/lmdeploy#3412 (2025).
    "all at index 0": ([[entry(0, "a", "f", '{"x":1}')], [entry(0, "b", "g", '{"y":2}')]], [F, G]),
    "all at index 0, in pieces": (
        [[entry(0, "a", "f", "")], [entry(0, "", None, '{"x":1}')], [entry(0, "b", "g", "")], [entry(0, "", None, '{"y":2}')]],
        [F, G],
    ),
    # ollama/ollama#7881 (2024).
    "no index": ([[entry(id="a", name="f", arguments='{"x":1}')], [entry(id="b", name="g", arguments='{"y":2}')]], [F, G]),
    "index null": ([[entry(None, "a", "f", '{"x":1}'), entry(None, "b", "g", '{"y":2}')]], [F, G]),
    "no index, side by side in each chunk": (
        [[entry(id="a", name="f"), entry(id="b", name="g")], [entry(arguments='{"x":1}'), entry(arguments='{"y":2}')]],
        [F, G],
    ),
    # Gemini's compatible API (NousResearch/hermes-agent#62937, 2026).
    "index 0 and no id": ([[entry(0, "", "f", '{"x":1}')], [entry(0, "", "g", '{"y":2}')]], [F, G]),
    "one tool twice, index 0 and no id": ([[entry(0, "", "f", '{"x":1}')], [entry(0, "", "f", '{"x":1}')]], [F, F]),
    "neither index nor id": ([[entry(name="f", arguments='{"x":1}')], [entry(name="g", arguments='{"y":2}')]], [F, G]),
    "neither index nor id, in one chunk": ([[entry(name="f", arguments="{}"), entry(name="f", arguments="{}")]], [("f", {})] * 2),
    "the name after the id": ([[entry(0, "a")], [entry(0, name="f", arguments='{"x":1}')]], [F]),
    "the name after the id, twice at index 0": (
        [[entry(0, "a")], [entry(0, name="f", arguments='{"x":1}')], [entry(0, "b")], [entry(0, name="g", arguments='{"y":2}')]],
        [F, G],
    ),
    "the name after the arguments": ([[entry(0, "a", arguments='{"x"')], [entry(0, arguments=":1}")], [entry(0, name="f")]], [F]),
    "the id after the name": ([[entry(0, name="f", arguments='{"x"')], [entry(0, "a", arguments=":1}")]], [F]),
    # SGLang repeats the id (InternLM/lmdeploy#3412, 2025); others the name as well.
    "the id in every delta": ([[entry(0, "a", "f", "")], [entry(0, "a", None, '{"x"')], [entry(0, "a", None, ":1}")]], [F]),
    "id and name in every delta": ([[entry(0, "a", "f", "")], [entry(0, "a", "f", '{"x"')], [entry(0, "a", "f", ":1}")]], [F]),
    "the name in every delta, no id": ([[entry(0, None, "f", '{"x"')], [entry(0, None, "f", ":1}")]], [F]),
    # The default of vLLM's DeltaToolCall was a new id for each (protocol.py, 2024).
    "another id in every delta": ([[entry(0, "a", "f", "")], [entry(0, "b", None, '{"x"')], [entry(0, "c", None, ":1}")]], [F]),
    "another id in every delta, no index": ([[entry(id="a", name="f")], [entry(id="b", arguments='{"x":1}')]], [F]),
    "one id for all": ([[entry(0, "null", "f", '{"x":1}')], [entry(1, "null", "g", '{"y":2}')]], [F, G]),
    "one id for all, one by one": ([[entry(0, "a", "f", '{"x":1}')], [entry(1, "a", "g", '{"y":2}')]], [F, G]),
    "arguments as an object": ([[entry(0, "a", "f", {"x": 1})], [entry(0, "b", "g", {"y": 2})]], [F, G]),
    "no arguments": ([[entry(0, "a", "f", "")], [entry(1, "b", "f", None)], [entry(2, "c", "f")]], [("f", {})] * 3),
    "arguments null, as a text": ([[entry(0, "a", "f", "null")]], [("f", {})]),
    "an empty object before the arguments": ([[entry(0, "a", "f", "{}")], [entry(0, arguments='{"x":1}')]], [F]),
    "interleaved": (
        [[entry(0, "a", "f", '{"x"')], [entry(1, "b", "g", '{"y"')], [entry(0, arguments=":1}")], [entry(1, arguments=":2}")]],
        [F, G],
    ),
    "begun together": (
        [[entry(0, "a", "f"), entry(1, "b", "g")], [entry(1, arguments='{"y":2}')], [entry(0, arguments='{"x":1}')]],
        [F, G],
    ),
    "braces and quotes within texts": (
        [[entry(0, "a", "f", '{"x": "}\\\\')], [entry(0, arguments='\\" {')], [entry(0, arguments='"}')], [entry(0, "b", "g", '{"y":2}')]],
        [("f", {"x": '}\\" {'}), G],
    ),
    "an entry that says nothing": ([[entry(0, "a", "f", '{"x":1}')], [entry(1)], [entry(0, "", None, "")]], [F]),
}  # fmt: skip


@pytest.mark.parametrize("caller", ["messages", "responses"])
@pytest.mark.parametrize("name", STREAMS)
def test_calls_are_told_apart(caller, name):
    deltas, calls = STREAMS[name]
    chunks = chat_chunks(*({"tool_calls": entries} for entries in deltas), reason="tool_calls")
    answer, lost = received(caller, "chat", chunks)
    assert [(tool, arguments) for _, tool, arguments in answer.tool_calls] == calls
    assert len({id_ for id_, _, _ in answer.tool_calls}) == len(calls), "each has its own id"
    assert lost == []


@pytest.mark.parametrize("caller", ["messages", "responses"])
@pytest.mark.parametrize(
    "entries, calls",
    [
        ([entry(id="a", name="f", arguments='{"x":1}'), entry(id="b", name="g", arguments='{"y":2}')], [F, G]),
        ([entry(id="", name="f", arguments={"x": 1}), entry(name="f", arguments={"x": 1})], [F, F]),
        ([entry(0, "a", "f", "{}"), entry(0, "a", "f", "{}")], [("f", {})] * 2),
        ([entry(id="a", name="f", arguments=None)], [("f", {})]),
    ],
    ids=["with ids", "without", "with one id", "no arguments"],
)
def test_each_entry_of_a_whole_answer_is_a_call(caller, entries, calls):
    answer, lost = received(caller, "chat", chat_answer({"content": None, "tool_calls": entries}, "tool_calls"))
    assert [(tool, arguments) for _, tool, arguments in answer.tool_calls] == calls
    assert len({id_ for id_, _, _ in answer.tool_calls}) == len(calls)
    assert lost == []


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("caller", ["messages", "responses"])
@pytest.mark.parametrize("arguments", [" ", "\n", '""', ' "" ', "null", "{}", ""])
def test_arguments_that_say_nothing_are_an_empty_object(caller, arguments, stream):
    message = {"tool_calls": [entry(0, "a", "f", arguments)]}
    answer = chat_chunks(message, reason="tool_calls") if stream else chat_answer(message, "tool_calls")
    read, lost = received(caller, "chat", answer)
    assert (read.tool_calls, lost) == ([("a", "f", {})], [])


@pytest.mark.parametrize("caller", ["messages", "responses"])
@pytest.mark.parametrize("first", [" ", "\n", '""'])
def test_arguments_that_say_nothing_may_come_before_others(caller, first):
    entries = [entry(0, "a", "f", first), entry(0, arguments='{"x":1}')]
    answer, lost = received(caller, "chat", chat_chunks(*({"tool_calls": [each]} for each in entries)))
    assert (answer.tool_calls, lost) == ([("a", *F)], [])


def test_numbers_that_json_lacks_are_null_in_an_input():
    message = {"tool_calls": [entry(id="a", name="f", arguments='{"x": NaN}')]}
    answer, _ = received("messages", "chat", chat_answer(message, "tool_calls"))
    assert answer.tool_calls[0][2] == {"x": None}


@pytest.mark.parametrize("caller", ["messages", "responses"])
def test_arguments_after_the_end_of_a_call_are_named(caller):
    deltas = [entry(0, "a", "f", '{"x":1}'), entry(0, "a", arguments='{"x":1}'), entry(0, "a", arguments=" ")]
    answer, lost = received(caller, "chat", chat_chunks(*({"tool_calls": [each]} for each in deltas)))
    assert [arguments for _, _, arguments in answer.tool_calls] == [{"x": 1}]
    assert lost == ["tool_calls.arguments"]


@pytest.mark.parametrize("caller", ["messages", "responses"])
def test_a_call_of_another_kind_is_named(caller):
    custom = {"id": "a", "type": "custom", "custom": {"name": "f", "input": "x"}}
    answer, lost = received(caller, "chat", chat_answer({"content": "Hi", "tool_calls": [custom, 7]}))
    assert (answer.text, answer.tool_calls, lost) == ("Hi", [], ["tool_calls.custom", "tool_calls"])


JSON_OBJECTS = st.dictionaries(st.text(), st.recursive(st.none() | st.integers() | st.text(), lambda i: st.lists(i)))


@given(JSON_OBJECTS, st.data())
def test_arguments_are_complete_at_the_end_of_their_object_and_not_before(value, data):
    text = json.dumps(value, ensure_ascii=data.draw(st.booleans()))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(text) - 1), max_size=4))) if len(text) > 2 else []
    call = ChatCall(0)
    for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        if text != "{}":
            assert not call.is_complete
        call.accepts(text[begin:end])
    assert call.is_complete


@pytest.mark.parametrize("caller", ["messages", "responses"])
@given(data=st.data())
def test_any_pieces_and_any_way_to_name_calls_give_the_same_answer(caller, data):
    arguments = data.draw(st.lists(JSON_OBJECTS, min_size=1, max_size=3))
    text, thinking = data.draw(st.text(max_size=8)), data.draw(st.text(max_size=8))
    with_index, with_id = data.draw(
        st.sampled_from([(True, True), (False, True), (None, True), (0, True), (True, False)])
    )

    def named(number: int, begins: bool, piece: str) -> dict[str, Any]:
        fields: dict[str, Any] = {"function": {"arguments": piece, **({"name": f"t{number}"} if begins else {})}}
        if with_index is not None:
            fields["index"] = number if with_index is True else 0 if with_index == 0 else None
        return {**fields, "id": f"id{number}"} if with_id and begins else fields

    def pieces(value: str) -> list[str]:
        cuts = sorted(data.draw(st.sets(st.integers(0, len(value)), max_size=3)) | {0, len(value)})
        return [value[a:b] for a, b in itertools.pairwise(cuts)]

    deltas: list[dict[str, Any]] = [{"reasoning_content": piece} for piece in pieces(thinking)]
    deltas += [{"content": piece} for piece in pieces(text)]
    for number, value in enumerate(arguments):
        for at, piece in enumerate(pieces(json.dumps(value))):
            deltas.append({"tool_calls": [named(number, at == 0, piece)]})
    answer, lost = received(caller, "chat", chat_chunks(*deltas))
    assert (answer.text, answer.thinking, lost) == (text, thinking, [])
    assert [(name, value) for _, name, value in answer.tool_calls] == [(f"t{n}", v) for n, v in enumerate(arguments)]
