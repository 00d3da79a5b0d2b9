"""Notes and forbidden tools in a request."""

import json

import pytest

from gateway.dialects import steering

NOTE = "[Gateway note: change your approach.]"


@pytest.mark.parametrize(
    "upstream_dialect, document, expected",
    [
        ("chat", {"messages": [{"role": "user", "content": "go"}]}, {"role": "user", "content": f"go\n\n{NOTE}"}),
        ("chat", {"messages": [{"role": "user", "content": "go"}, {"role": "assistant", "content": "x"}, {"role": "tool", "tool_call_id": "c", "content": "no"}]},
         {"role": "tool", "tool_call_id": "c", "content": f"no\n\n{NOTE}"}),
        ("chat", {"messages": [{"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "no"}]}]},
         {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "no"}, {"type": "text", "text": NOTE}]}),
        ("chat", {"messages": [{"role": "tool", "tool_call_id": "c", "content": None}]}, {"role": "tool", "tool_call_id": "c", "content": NOTE}),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "no"}]}]},
         {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": f"no\n\n{NOTE}"}]}),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t"}, {"type": "text", "text": "and?"}]}]},
         {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t"}, {"type": "text", "text": "and?"}, {"type": "text", "text": NOTE}]}),
        ("responses", {"input": [{"type": "function_call_output", "call_id": "c", "output": "no"}]},
         {"type": "function_call_output", "call_id": "c", "output": f"no\n\n{NOTE}"}),
        ("responses", {"input": [{"role": "user", "content": [{"type": "input_text", "text": "go"}]}]},
         {"role": "user", "content": [{"type": "input_text", "text": "go"}, {"type": "input_text", "text": NOTE}]}),
    ],
)  # fmt: skip
def test_a_note_is_appended_to_the_newest_turn(upstream_dialect, document, expected):
    before = json.dumps(document)
    name = "input" if upstream_dialect == "responses" else "messages"
    assert steering.append_note(document, upstream_dialect, NOTE)[name][-1] == expected
    assert json.dumps(document) == before


def test_a_note_is_appended_to_a_prompt_that_is_a_string():
    assert steering.append_note({"input": "go"}, "responses", NOTE)["input"] == f"go\n\n{NOTE}"


def test_a_caller_s_prefill_stays_the_last_turn():
    document = {"messages": [{"role": "user", "content": "go"}, {"role": "assistant", "content": "{"}]}
    turns = steering.append_note(document, "messages", NOTE)["messages"]
    assert turns[0]["content"].endswith(NOTE) and turns[1] == document["messages"][1]


@pytest.mark.parametrize(
    "document", [{}, {"messages": None}, {"messages": []}, {"messages": ["x"]}, {"messages": [{"role": "assistant"}]}]
)
def test_a_request_without_a_user_or_tool_turn_is_unchanged(document):
    assert steering.append_note(document, "chat", NOTE) == document


@pytest.mark.parametrize(
    "upstream_dialect, choice", [("chat", "none"), ("responses", "none"), ("messages", {"type": "none"})]
)
def test_forbidden_tools_stay_in_the_request(upstream_dialect, choice):
    tools = [{"name": "f"}]
    assert steering.forbid_tools({"tools": tools}, upstream_dialect) == {"tools": tools, "tool_choice": choice}
    assert steering.forbid_tools({}, upstream_dialect) == {}


def test_a_note_after_an_output_that_is_not_text_is_a_turn_of_its_own():
    shell = {"type": "shell_call_output", "call_id": "c", "output": [{"stdout": "x"}]}
    assert steering.append_note({"input": [shell]}, "responses", NOTE)["input"] == [
        shell,
        {"role": "user", "content": NOTE},
    ]


def test_the_deprecated_functions_are_forbidden_too():
    document = {"functions": [{"name": "f"}]}
    assert steering.forbid_tools(document, "chat") == {**document, "function_call": "none"}
