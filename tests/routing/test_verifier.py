"""The verifier: doubts about a small model's response, in every dialect."""

from typing import Any

import pytest

from gateway.dialects.output_constraints import OutputConstraints
from gateway.dialects.parsed_answer import parse_answer
from gateway.routing.verifier import failed_checks, matches_schema


def chat(content: object = "Paris.", finish: object = "stop", **more: object) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": content, **more}, "finish_reason": finish}]}


def call(name: str, arguments: str) -> dict[str, Any]:
    return chat(None, "tool_calls", tool_calls=[{"id": "a", "function": {"name": name, "arguments": arguments}}])


LOOKUP = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
}
TOOLS = OutputConstraints(tools={"lookup": LOOKUP})


@pytest.mark.parametrize(
    "document, form, expected",
    [
        (chat(), OutputConstraints(), ()),
        (chat("Par", "length"), OutputConstraints(), ("truncated",)),
        (chat("", "content_filter"), OutputConstraints(), ("refusal", "empty response")),
        (chat("I'm sorry, but I can't help with that."), OutputConstraints(), ("refusal",)),
        (chat("She said: I'm sure. " * 40 + "I cannot help"), OutputConstraints(), ()),
        (chat(""), OutputConstraints(), ("empty response",)),
        (chat("{}"), OutputConstraints(schema={"type": "object"}), ()),
        (chat("Sure: {}"), OutputConstraints(schema={"type": "object"}), ("response is not JSON",)),
        (chat('{"days": 1}'), OutputConstraints(schema=LOOKUP), ("response does not match its schema",)),
        (chat(), OutputConstraints(tools={"lookup": LOOKUP}, tool_call_required=True), ("no tool call",)),
        (call("lookup", '{"city": "Paris"}'), TOOLS, ()),
        (call("lookup", '{"days": 2}'), TOOLS, ("tool call does not match its schema",)),
        (call("lookup", "{city"), TOOLS, ("tool call is not JSON",)),
        (call("rm", "{}"), TOOLS, ("call of a tool not offered",)),
        ({"content": [{"type": "text", "text": "Paris."}], "stop_reason": "end_turn"}, OutputConstraints(), ()),
        ({"content": [{"type": "text", "text": "Par"}], "stop_reason": "max_tokens"}, OutputConstraints(), ("truncated",)),
        ({"content": [{"type": "tool_use", "name": "lookup", "input": {"city": 3}}]}, TOOLS, ("tool call does not match its schema",)),
        ({"output": [{"type": "message", "content": [{"type": "output_text", "text": "Paris."}]}], "status": "completed"}, OutputConstraints(), ()),
        ({"output": [{"type": "function_call", "name": "lookup", "arguments": "{}"}], "status": "completed"}, TOOLS, ("tool call does not match its schema",)),
        ({"output": [{"type": "message", "content": [{"type": "refusal", "refusal": "No."}]}]}, OutputConstraints(), ("refusal",)),
        (chat("Par", "length"), OutputConstraints(has_output_limit=True), ()),
        (chat("Par", ["length"]), OutputConstraints(), ()),
        (chat(None, tool_calls=[{"id": "a", "type": "custom", "custom": {"name": "x", "input": "y"}}]), OutputConstraints(tool_call_required=True), ()),
        (chat(None, audio={"id": "x"}), OutputConstraints(), ()),
        (chat(None, function_call={"name": "f", "arguments": "{}"}), OutputConstraints(), ()),
        ({"output": [{"type": "custom_tool_call", "name": "x", "input": "y"}]}, OutputConstraints(), ()),
        ({"output": [{"type": "reasoning"}]}, OutputConstraints(), ("empty response",)),
        ({"content": [{"type": "server_tool_use"}]}, OutputConstraints(), ()),
        (chat('{"a": 1}'), OutputConstraints(schema={"type": [["object"]]}), ()),
        ({"nonsense": 1}, OutputConstraints(), ("empty response",)),
        ({"choices": []}, OutputConstraints(), ("empty response",)),
        ({"choices": [{"message": {"content": [1]}, "logprobs": {"content": [{"top_logprobs": "x"}]}}]}, OutputConstraints(), ("empty response",)),
    ],
)  # fmt: skip
def test_the_checks_that_a_response_fails(document, form, expected):
    assert failed_checks(parse_answer(document), form) == expected


@pytest.mark.parametrize("gap, doubted", [(0.1, True), (5.0, False)])
def test_a_small_logprob_margin_is_doubtful(gap, doubted):
    tokens = [{"logprob": -0.1, "top_logprobs": [{"logprob": -0.1}, {"logprob": -0.1 - gap}]}] * 5
    document = {"choices": [{"message": {"content": "Paris."}, "logprobs": {"content": tokens}}]}
    assert ("low token confidence" in failed_checks(parse_answer(document), OutputConstraints())) is doubted


@pytest.mark.parametrize(
    "value, schema, matches",
    [
        (1, {"type": "integer"}, True), (1.0, {"type": "integer"}, True), (True, {"type": "integer"}, False),
        (1.5, {"type": ["integer", "null"]}, False), (None, {"type": ["integer", "null"]}, True),
        ("a", {"enum": ["a", "b"]}, True), ("c", {"enum": ["a", "b"]}, False), ([1, "x"], {"items": {"type": "integer"}}, False),
        ({"a": 1}, {"properties": {}, "additionalProperties": False}, False), ({"a": {}}, {"properties": {"a": {"required": ["b"]}}}, False),
        ("anything", {"$ref": "#/x"}, True), ("anything", 7, True), ({"a": 1}, {"required": [7]}, True),
    ],
)  # fmt: skip
def test_values_match_schemas(value, schema, matches):
    assert matches_schema(value, schema) is matches
